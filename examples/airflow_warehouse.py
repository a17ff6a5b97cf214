"""The jobs of warehouse.yaml as a DAG of Airflow 2.4 or later, for those who have one: each task is a tocsin command.

Put it into the DAG folder, with warehouse.yaml beside it, where `tocsin` is installed. What a task has read is kept in
the data folder, so a task that is tried again goes on where it was; the retries of the jobs themselves are left as
they are. Without Airflow `tocsin jobs warehouse.yaml` does the same.
"""

from datetime import datetime, timedelta
from pathlib import Path

from airflow import DAG
from airflow.operators.bash import BashOperator

FILE = Path(__file__).with_name("warehouse.yaml")
TRIED_AGAIN = {"retries": 2, "retry_delay": timedelta(minutes=5)}

with DAG(
    dag_id="warehouse",
    schedule="30 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args=TRIED_AGAIN,
) as dag:
    check = BashOperator(task_id="check", bash_command=f"tocsin check {FILE}")
    load = BashOperator(task_id="load", bash_command=f"tocsin jobs {FILE} --run nightly")
    compact = BashOperator(task_id="compact", bash_command=f"tocsin jobs {FILE} --run compact")
    vacuum = BashOperator(task_id="vacuum", bash_command=f"tocsin jobs {FILE} --run vacuum")
    check >> load >> compact >> vacuum

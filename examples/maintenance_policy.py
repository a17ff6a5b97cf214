"""Learn when to maintain, in a simulated plant, and keep the policy for step `advise`: python maintenance_policy.py

Takes some minutes. The costs are in planned stops on a working day; say what they are in your plant in `Plant`.
Then: tocsin models show maintenance, tocsin models promote maintenance 1
"""

import argparse
from functools import partial

from tocsin.models.maintenance import ACTIONS, MaintenanceFleet, Plant, judge, tuned
from tocsin.models.policy import evolve, version
from tocsin.models.store import FOLDER, Store
from tocsin.models.wear import SIGNALS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default=str(FOLDER), help="the folder that models are kept in")
    settings = parser.parse_args()
    plant = Plant(life_days=25, spread=0.5, noise=0.15, planned=1, idle=0.4, unplanned=8)
    learned = evolve(partial(MaintenanceFleet, plant=plant), told=lambda text: print(text, end="\r"))  # noqa: T201
    costs = judge(plant, {**tuned(plant), "learned": learned}, seed=1_000_000)
    means = {name: float(values.mean()) for name, values in costs.items()}
    for name, cost in means.items():
        print(f"{name:16} costs {cost:6.2f} in {plant.days} days")  # noqa: T201
    kept = Store(settings.store).add(*version("maintenance", learned, SIGNALS, ACTIONS, means))
    print(kept.verdict())  # noqa: T201


if __name__ == "__main__":
    main()

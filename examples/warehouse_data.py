"""Some documents for examples/warehouse.yaml: python warehouse_data.py [mongodb://localhost:27017/plant]

Started again it changes some of them and adds a work order, as people do during a day.
"""

import random
import sys
from datetime import UTC, datetime

import pymongo


def main() -> None:
    """Make or change machines, work orders and parts."""
    url = sys.argv[1] if len(sys.argv) > 1 else "mongodb://localhost:27017/plant"
    database, now = pymongo.MongoClient(url).get_default_database(), datetime.now(UTC)
    count = database.workorders.count_documents({})
    for name in ("machines", "workorders", "parts"):
        database[name].create_index("changed")
    if not count:
        machines = [{"_id": f"m{i}", "name": f"Press {i}", "installed": now, "changed": now} for i in range(5)]
        database.machines.insert_many(machines)
    order = {"_id": f"w{count + 1}", "machine": f"m{count % 5}", "hours": 1.5, "done": False, "changed": now}
    database.workorders.insert_one(order)
    database.workorders.update_one({"_id": f"w{count}"}, {"$set": {"done": True, "changed": now}})
    part = {"workorder": order["_id"], "part": random.choice(["valve", "seal"]), "price": 12.5, "changed": now}  # noqa: S311
    database.parts.insert_one(part)
    print(f"{url}: work order {order['_id']} is open")  # noqa: T201


if __name__ == "__main__":
    main()

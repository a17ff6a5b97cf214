"""PromQL over the lake's tables, so that Grafana's own Prometheus data source reads them.

Prometheus, "Querying basics", "Operators", "Functions" (3.0); the parser is promql-parser.
"""

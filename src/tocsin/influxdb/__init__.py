"""What source and sink of InfluxDB share: how to reach the server."""

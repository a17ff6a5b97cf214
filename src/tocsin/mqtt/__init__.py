"""MQTT 3.1.1 and 5: a codec without sockets, a client without threads, a small broker."""

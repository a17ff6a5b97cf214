"""What source and decoder of Sparkplug B share: payloads, and what births, deaths and sequence numbers say."""

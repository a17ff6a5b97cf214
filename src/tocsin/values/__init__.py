"""From what was sent to a typed value: text, numbers, times, and expressions over them."""

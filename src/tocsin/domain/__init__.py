"""The words of the plant: alarms, their figures, calendars, effectiveness."""

"""Measure speed on this machine, one module for each measurement: `python -m speed.measure` runs them."""

"""Testbenches of the RTL, and what they share."""

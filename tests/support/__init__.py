"""Test support: real servers and services, injected faults, and functions that wait for conditions. No mocks."""

"""Findings, pictures and curves on their way to people: terminal, report, loggers. Knows values only."""

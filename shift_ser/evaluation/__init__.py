"""Evaluation: functions of one table of predictions."""

"""A stand-in for LemonSqueezy on one machine: its API, its pages, its webhook. No money moves."""

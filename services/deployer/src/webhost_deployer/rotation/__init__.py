"""The platform's keys when they change: fronts get the new ones, sealed secrets the new seal."""

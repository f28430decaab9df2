"""Customers' secrets: kept sealed, opened only to be put on a Worker, brought to every kept one."""

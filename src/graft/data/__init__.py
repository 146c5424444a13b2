"""Domains: readers, splits, views and loaders."""

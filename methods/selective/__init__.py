"""Selective methods: which of the backbone's own parameters are trained."""

"""Additive methods: new modules between the backbone's layers."""

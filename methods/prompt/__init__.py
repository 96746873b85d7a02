"""Prompt methods: what the backbone attends to beside the text."""

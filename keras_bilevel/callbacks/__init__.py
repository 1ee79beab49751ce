"""Callbacks that watch weights and examples."""

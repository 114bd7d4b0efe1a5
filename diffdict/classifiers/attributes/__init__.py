"""Probes of attributes in closed form, at many places and parts of a code."""

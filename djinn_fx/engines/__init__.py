"""Engines: each compiles a region to an artefact and loads an artefact to a callable."""

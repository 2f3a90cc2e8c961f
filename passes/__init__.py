"""The passes over the SRG, one a file. The default pipeline is in :mod:`djinn_fx.passes.pipeline`."""

if __name__ != "djinn_fx.passes":
    raise ImportError("import this package as djinn_fx.passes, not as a top-level package")

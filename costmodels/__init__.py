"""Cost models: what an op does and how long a device takes for it."""

if __name__ != "djinn_fx.costmodels":
    raise ImportError("import this package as djinn_fx.costmodels, not as a top-level package")

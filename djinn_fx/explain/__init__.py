"""``python -m djinn_fx.explain model.py``: find a user's model, capture it, and say what was decided and why.

* :mod:`finding` loads the file and finds the model and inputs in it, without the memory of its weights.
* :mod:`examine` captures it in each of its scenarios; :mod:`gather` makes of that the frozen :mod:`report`;
  :mod:`verdict` says what it comes to; :mod:`text` prints both.
* :mod:`command` is the command line.
"""

"""``python -m djinn_fx.explain model.py``: find a user's model, capture it, and say what was decided and why.

* :mod:`finding` loads the file and finds the model and inputs in it, without the memory of its weights.
* :mod:`examine` captures it; :mod:`report` turns the result into a frozen report; :mod:`verdict` says what it comes to;
  :mod:`text` prints both.
* :mod:`command` is the command line.
"""

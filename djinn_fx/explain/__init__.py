"""``python -m djinn_fx.explain model.py``: find a user's model, capture it, and say what was decided and why.

* :mod:`user_file` loads the file; :mod:`find_model` and :mod:`user_inputs` find the model and inputs in it.
* :mod:`examine` captures it; :mod:`report` turns the result into a frozen report; :mod:`text` prints that.
* :mod:`command` is the command line.
"""

"""Placement over devices: solvers on public problems, and how long planning takes."""

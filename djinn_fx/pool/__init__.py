"""The build pool: compilers run in child processes that may crash, hang or be killed without harm."""

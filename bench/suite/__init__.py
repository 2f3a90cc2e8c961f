"""Where the test suite's time goes."""

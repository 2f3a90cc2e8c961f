"""A plan's regions on workers: what each is as a message, what a worker holds of it, and how a call goes over them."""

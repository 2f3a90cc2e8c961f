"""The engine `inductor`: torch's own compiler, made safe for every value."""

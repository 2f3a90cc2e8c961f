"""Topologies from other tools' files: ``nvidia-smi topo -m``, Slurm's topology.conf, ASTRA-sim's network files."""

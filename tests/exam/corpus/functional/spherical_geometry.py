# expect: attr=track_length model=track_length rule=function+track phase=forward breaks=0 exit=0
"""Distances on the Earth along a track, and the bearing of each leg."""

import torch


def track_length(track):
    latitude, longitude = torch.deg2rad(track).unbind(-1)
    dlat, dlon = latitude.diff(), longitude.diff()
    a = (dlat / 2).sin() ** 2 + latitude[:-1].cos() * latitude[1:].cos() * (dlon / 2).sin() ** 2
    legs = 2 * 6371 * torch.asin(a.sqrt())
    bearing = torch.atan2(
        dlon.sin() * latitude[1:].cos(),
        latitude[:-1].cos() * latitude[1:].sin() - latitude[:-1].sin() * latitude[1:].cos() * dlon.cos(),
    )
    return legs.cumsum(0), torch.rad2deg(bearing) % 360


track = torch.rand(50, 2) * 90

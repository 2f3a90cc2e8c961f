# expect: model=model rule=model-function+get_inputs phase=forward breaks=0 exit=0
"""Black and Scholes: prices of options, and what they are worth by a grid of volatilities."""

import math

import torch


def normal_cdf(x):
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def model(spot, strike, years, volatility, rate=0.03):
    spread = volatility * years.sqrt()
    d1 = ((spot / strike).log() + (rate + volatility**2 / 2) * years) / spread
    discounted = strike * (-rate * years).exp()
    call = spot * normal_cdf(d1) - discounted * normal_cdf(d1 - spread)
    return {"call": call, "put": call - spot + discounted}


def get_inputs():
    volatility = torch.linspace(0.1, 0.6, 64)[:, None]
    return {
        "spot": torch.full((100,), 100.0),
        "strike": torch.linspace(60, 140, 100),
        "years": torch.full((100,), 0.5),
        "volatility": volatility,
    }

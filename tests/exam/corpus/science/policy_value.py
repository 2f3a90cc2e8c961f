# expect: model=ActorCritic rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""An actor and a critic on one trunk; generalised advantages by a backward sum over a rollout."""

import torch
from torch import nn


class ActorCritic(nn.Module):
    def __init__(self, observed=8, actions=4, hidden=64):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(observed, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
        self.policy, self.value = nn.Linear(hidden, actions), nn.Linear(hidden, 1)

    def forward(self, observations, actions, rewards, gamma=0.99, smooth=0.95):
        h = self.trunk(observations)
        value = self.value(h).squeeze(-1)
        log_probability = self.policy(h).log_softmax(-1).gather(-1, actions[..., None]).squeeze(-1)
        delta = rewards[:-1] + gamma * value[1:] - value[:-1]
        advantage, total = [], torch.zeros_like(delta[0])
        for t in reversed(range(delta.shape[0])):
            total = delta[t] + gamma * smooth * total
            advantage.insert(0, total)
        advantage = torch.stack(advantage).detach()
        return -(log_probability[:-1] * advantage).mean(), delta.square().mean()


def get_model():
    return ActorCritic()


def get_inputs():
    return [torch.randn(12, 3, 8), torch.randint(4, (12, 3)), torch.randn(12, 3), {"gamma": 0.9}]

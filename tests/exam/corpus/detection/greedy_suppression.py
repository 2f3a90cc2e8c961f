# expect: model=suppress rule=model-function+get_inputs phase=forward breaks=1 exit=0
"""Greedy non-maximum suppression: how many boxes are left depends on the boxes."""

import torch


def iou(box, boxes):
    low = torch.maximum(box[:2], boxes[:, :2])
    high = torch.minimum(box[2:], boxes[:, 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    return inter / (area + (box[2:] - box[:2]).prod() - inter)


def suppress(boxes, scores, threshold=0.5):
    order = scores.argsort(descending=True)
    boxes = boxes[order]
    alive = torch.ones(len(boxes), dtype=torch.bool)
    for i in range(len(boxes)):
        if alive[i]:  # depends on a value
            alive = alive & ((iou(boxes[i], boxes) <= threshold) | (torch.arange(len(boxes)) <= i))
    return order, alive


model = suppress


def get_inputs():
    corners = torch.tensor([[0.0, 0.0], [1.0, 1.0], [20.0, 20.0], [21.0, 20.0]])
    return torch.cat([corners, corners + 10], 1), torch.tensor([0.9, 0.8, 0.7, 0.6])

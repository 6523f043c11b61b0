"""The rates of `analysis.fading` again, one prediction at a time: slow and plain."""

from itertools import product


def iou_of(a, b) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(w, 0.0) * max(h, 0.0)
    both = area_of(a) + area_of(b) - shared
    return shared / both if both > 0 else 0.0


def area_of(box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def inside(box, crowd) -> float:
    w = min(box[2], crowd[2]) - max(box[0], crowd[0])
    h = min(box[3], crowd[3]) - max(box[1], crowd[1])
    area = area_of(box)
    return max(w, 0.0) * max(h, 0.0) / area if area > 0 else 0.0


class Image:
    """Plain lists: `scores[y][q][c]`, `boxes[y][q]`, `things` and `crowds` of pairs."""

    def __init__(self, scores, boxes, target):
        self.scores, self.boxes = scores.tolist(), boxes.double().tolist()
        rows = list(zip(target["boxes"].double().tolist(), target["labels"].tolist()))
        self.known = {}  # what hits(...) has found
        crowd = target.get("iscrowd")
        marks = [False] * len(rows) if crowd is None else crowd.tolist()
        self.things = [row for row, mark in zip(rows, marks) if not mark]
        self.crowds = [row for row, mark in zip(rows, marks) if mark]

    def said(self, y, q):
        row = self.scores[y][q]
        return row.index(max(row)), max(row)

    def overlap(self, y, q, n):
        return iou_of(self.boxes[y][q], self.things[n][0])

    def is_candidate(self, y, q, n, iou):
        right = self.said(y, q)[0] == self.things[n][1]
        return right and self.overlap(y, q, n) > iou

    def winners(self, y, iou):
        """{(query, object)}: the best-scored candidate of each object."""
        found = set()
        for n in range(len(self.things)):
            able = [
                q for q in range(len(self.boxes[y])) if self.is_candidate(y, q, n, iou)
            ]
            if able:
                top = max(self.said(y, q)[1] for q in able)
                found.add((next(q for q in able if self.said(y, q)[1] == top), n))
        return found

    def greedy(self, y, iou):
        found, taken = set(), set()
        queries = range(len(self.boxes[y]))
        for q in sorted(queries, key=lambda q: -self.said(y, q)[1]):
            most, chosen = iou, None
            for n, (_, label) in enumerate(self.things):
                if n in taken or label != self.said(y, q)[0]:
                    continue
                if self.overlap(y, q, n) >= most:
                    most, chosen = self.overlap(y, q, n), n
            if chosen is not None:
                taken.add(chosen)
                found.add((q, chosen))
        return found

    def hits(self, y, iou, reading):
        if (y, iou, reading) not in self.known:
            found = self.greedy if reading == "greedy" else self.winners
            self.known[y, iou, reading] = found(y, iou)
        return self.known[y, iou, reading]

    def is_false(self, y, q, iou, reading):
        if any(query == q for query, _ in self.hits(y, iou, reading)):
            return False
        for crowd, label in self.crowds:
            share = inside(self.boxes[y][q], crowd)
            on = share >= iou if reading == "greedy" else share > iou
            if on and label == self.said(y, q)[0]:
                return False
        return True

    def was_better(self, y, q, n, iou, reading):
        last = len(self.scores) - 1
        label = self.things[n][1]
        score = self.said(y, q)[1]
        if reading == "class":
            score = self.scores[y][q][label]
        elif reading == "candidate":
            if not self.is_candidate(y, q, n, iou):
                return False
        elif (q, n) not in self.hits(y, iou, reading):
            return False
        more = self.overlap(y, q, n) > self.overlap(last, q, n)
        return more and score > self.said(last, q)[1]

    def was_weaker(self, y, q, iou, reading, fp_reading):
        label, score = self.said(len(self.scores) - 1, q)
        if fp_reading == "class":
            return self.scores[y][q][label] < score
        if fp_reading == "fp" and not self.is_false(y, q, iou, reading):
            return False
        return self.said(y, q)[1] < score


def slow_rates(images, *, iou, reading, fp_reading, min_score):
    """(tp, tp_fading, fp, fp_worse, pairs) of `Image`s."""
    layers = len(images[0].scores)
    tp = fading = fp = worse = 0
    pairs = [0] * (layers - 1)
    for image in images:
        last = layers - 1
        for q, n in image.hits(last, iou, reading):
            if image.said(last, q)[1] < min_score:
                continue
            tp += 1
            better = [image.was_better(y, q, n, iou, reading) for y in range(last)]
            fading += any(better)
            pairs = [a + b for a, b in zip(pairs, better)]
        for q in range(len(image.boxes[last])):
            if image.said(last, q)[1] < min_score:
                continue
            if image.is_false(last, q, iou, reading):
                fp += 1
                worse += any(
                    image.was_weaker(y, q, iou, reading, fp_reading)
                    for y in range(last)
                )
    return tp, fading, fp, worse, pairs


READINGS = list(
    product(("winner", "candidate", "class", "greedy"), ("fp", "any", "class"))
)

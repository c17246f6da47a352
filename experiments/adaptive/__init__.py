"""Attackers who know: how far each detector of tables 3-7 holds against whom.

`python -m experiments.adaptive --dataset=mnist --system=CMAG+`. Zero knowledge: the attacker knows
the victim only. Limited: he knows how the detector is made and trained, and evades one of his own,
of another seed. Perfect: he has the detector itself.

He puts its score into his loss (PGD and CW on the guarded oracle, selective and orthogonal PGD).
Where rounding has no gradient (feature squeezing) he takes BPDA's. None of the five detectors
draws anything when it is asked (Defense-GAN's starting points are drawn once, by `init`), so EOT
has nothing to average over.

SR@5 and SR@1 are the shares of images, all rightly classified before, that end misclassified and
unflagged by the true detector at 5% and 1% FPR.
"""

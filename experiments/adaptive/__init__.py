"""Adaptive attacks: how robust each detector of tables 3-7 is at each level of knowledge.

`python -m experiments.adaptive --dataset=mnist --system=CMAG+`. Zero knowledge: the attacker knows
only the victim. Limited knowledge: the attacker knows how the detector is made and trained, and
evades a surrogate of another seed. Perfect knowledge: the attacker has the detector itself.

The attack's loss includes the detector's score (PGD and CW on the guarded oracle, selective and
orthogonal PGD). Rounding has no gradient, so for feature squeezing the attack uses BPDA. None of
the five detectors is random at query time (Defense-GAN's `init` draws its starting points once),
so EOT has nothing to average over.

SR@5 and SR@1 are the shares of images, all correctly classified before, that end misclassified and
unflagged by the deployed detector at 5% and 1% FPR.
"""

"""Are a configuration's outputs the right ones? They are measured against the float32 reference, figure by figure."""

from provider.verification.corpus import Corpus, ScoredPair, Text
from provider.verification.peer import Peer, ScorePeer, VectorPeer, load_peer
from provider.verification.procedure import verify, verify_briefly
from provider.verification.report import Check, Deviation, VerificationReport
from provider.verification.scores import ScoreComparison
from provider.verification.thresholds import ScoreThresholds, Thresholds, VectorThresholds, thresholds_for
from provider.verification.vectors import VectorComparison

__all__ = [
    "Check",
    "Corpus",
    "Deviation",
    "Peer",
    "ScoreComparison",
    "ScorePeer",
    "ScoreThresholds",
    "ScoredPair",
    "Text",
    "Thresholds",
    "VectorComparison",
    "VectorPeer",
    "VectorThresholds",
    "VerificationReport",
    "load_peer",
    "thresholds_for",
    "verify",
    "verify_briefly",
]

"""Is a configuration's vector the right one? It is measured against the float32 reference, figure by figure."""

from provider.engine.verification.comparison import Comparison
from provider.engine.verification.contender import Contender
from provider.engine.verification.corpus import Corpus, ScoredPair, Text
from provider.engine.verification.peer import Peer
from provider.engine.verification.report import Check, Report, Side, Worst
from provider.engine.verification.thresholds import Thresholds
from provider.engine.verification.verdict import check_passed, verify, verify_briefly

__all__ = [
    "Check",
    "Comparison",
    "Contender",
    "Corpus",
    "Peer",
    "Report",
    "ScoredPair",
    "Side",
    "Text",
    "Thresholds",
    "Worst",
    "check_passed",
    "verify",
    "verify_briefly",
]

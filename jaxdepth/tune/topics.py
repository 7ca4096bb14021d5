"""What a prompt asks, as a phrase made of the prompt's own words.

"Can you help me plan a picnic for my class?" becomes "planning a picnic for their class". The rules
read the form of a request alone, and no word of its content: they cannot tell what is asked for.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

MAX_WORDS, MAX_PIECES = 22, 25  # of a phrase
_PIECE = re.compile(r"[a-z]{1,7}|[A-Z][a-z]{0,3}|[^\sa-zA-Z]")

_VERBS = """
    add adjust advise arrange assess book bring build calculate calm change chart check choose clear
    coach code collaborate come compare compile complete compose consider construct convert convince
    correct count craft create cut debug define demonstrate describe design determine develop
    differentiate discuss do draft draw edit elaborate ensure establish estimate evaluate examine
    expand explain explore extract figure fill find fix follow form formulate gather get give go
    guess handle have identify implement improve include inform inspire install invent join keep
    know lay learn let list locate look maintain make manage map match merge modify move name
    navigate offer optimize organise organize outline paint park pen perform persuade phrase pick
    pitch plan plot post practise predict prepare present pretend print produce program promote
    propose prove provide put rank read recommend record reduce remove rent replace reply report
    respond retrieve review revise rewrite run save say schedule script search see select send set
    share show simulate sing sketch solve sort specify stage start stop suggest sum summarise
    summarize supply support take talk teach tell test think track train translate troubleshoot try
    turn understand update use visit visualize walk word work write
""".split()
_DOUBLED = """
    begin bet blog blur chat chop clip cram cut dig drop fit forget get grab hit hop hug jog
    kidnap let log map nap pat pen pin plan plot plug pop program put quit rip rob rub run set
    shop shut sit skip slam slip snap spin split spot stab star stir stop strap strip swap swim
    swot tag tap tip trap trim trip win wrap zip
""".split()
_WH = r"(?:how|what|why|whether|if|where|which|when|who|whom|whose)"
_OPENER = re.compile(
    r"^(?:yo+|bro|bruv|bruh|pls|please|mate|hello|hi(?: there)?|hey|kindly|pray|oi|dude|lol|ngl|omg"
    r"|ok|okay|alright|esteemed assistant|assistant|so|and|also|urgent|query|request|memo|sir|now"
    r"|well)\b[\s,!:.;-]+",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"(?:[,;]? (?:and|but|so) (?:i|we)(?:'d)? (?:want|need|could use|would like|like)\b[^,]{0,40}"
    r"|[,;] how (?:would|could|might|should) (?:that|it|one|this)\b.*"
    r"|, (?:can|could|would) you (?:please )?(?:help|assist|guide|give|provide|suggest)\b.*"
    r"|[,;]? (?:please|pls|thanks|thank you|step by step|to me))$",
    re.IGNORECASE,
)
# What speakers add to what they plan or need.
_ASIDE = re.compile(
    r",? (?:and|but|so|because) (?:i|we)(?:'m| am| are|'re|'d|'ve| have| would| need| want| could"
    r"| was| don't)\b.*|, (?:what|where|how|which|who) (?:should|can|do|could|would) (?:i|we)\b.*",
    re.IGNORECASE,
)
_ASKED = re.compile(
    r"^(?:can|could|would|will|may) (?:you|anyone|anybody|someone|somebody)"
    r" (?:please |kindly |also |just |possibly )*(.+)$",
    re.IGNORECASE,
)
_SHIFTS = {
    "my": "their", "our": "their", "ours": "theirs", "me": "them", "us": "them",
    "i": "they", "we": "they", "i'm": "they are", "im": "they are", "we're": "they are",
    "i've": "they have", "we've": "they have", "i'd": "they would", "i'll": "they will",
    "we'll": "they will", "am": "are", "myself": "themselves", "ourselves": "themselves",
}  # fmt: skip
# Words that name no subject: a phrase of these alone is too vague to use.
_EMPTY = set(
    """
    a about advice also an and any anything are as assist assistance assisting be can do doing find
    finding for from get getting give giving guidance guide have help helpful helping hints how i
    idea ideas if improve in insight insights is it its know like list make me more my need of
    offering on plan process provide providing please question recommendation recommendations right
    share sharing should some something start started steps strategies suggest suggesting
    suggestions support tell that the their them these they things this through tips to useful what
    where with you your explain explaining inspiration best effectively first soonest soon advise
    advising think thinking so up out will would could here there say saying see take taking
    correctly now today happen next using use better complete full details detail coming come
    respond responding briefly steps successful successfully you'd they'd focus ensure more less
    asap quickly thanks thank reply replying urgent resources again it's like off wanted advance
    example examples sample samples
    """.split()
)
# Words for what another sentence names.
_REFERS = re.compile(
    r"\b(?:it|this|these|those|them|him|her|his|he|she)\b|(?:get|ing) one\b", re.IGNORECASE
)
_HANGING = set(
    "a an the of to for with and or but so that in on at by from as is are their its which who"
    " before while because into his her if when than not without".split()
)

# Forms of requests with what is wanted in them; in order, the first that fits counts. {0} is the
# first group as it stands, {-ing} the first group with its verb in -ing.
_FORMS = [
    (re.compile(pattern, re.IGNORECASE), phrase)
    for pattern, phrase in (
        (rf"(?:tell|show|teach|advise|explain to|remind) (?:me|us) ({_WH}\b.+)", "{0}"),
        (r"teach (?:me|us)(?: (?:n|and) bro)? to (.+)", "how to {0}"),
        (rf"(?:explain|describe|outline|clarify|show|summarise)(?: to me)? ({_WH}\b.+)", "{0}"),
        (r"(?:help|assist|support|guide) (?:me|us)(?: out)? (?:with|in|on|through) (.+)", "{0}"),
        (r"(?:help|assist|guide) (?:me|us) to (.+)", "{-ing}"),
        (r"help (?:me|us) (\w+ .+)", "{-ing}"),
        (r"(?:assist|help) (?:with|in) (.+)", "{0}"),
        (r"walk (?:me|us) through (.+)", "{0}"),
        (r"(?:provide|give|offer|tell|show|furnish|lend|get|find|send) (?:me|us)(?: with)? (.+)",
         "{0}"),
        (r"(?:provide|give|offer|suggest|recommend|share|furnish|supply|list(?: out)?) "
         r"((?:a|an|the|some|any|ten|five|three|\d+)\b.+)", "{0}"),
        (rf"enlighten (?:me|us) as to ({_WH}\b.+|.+)", "{0}"),
    )
]  # fmt: skip
_QUESTIONS = [
    (re.compile(pattern, re.IGNORECASE), phrase)
    for pattern, phrase in (
        (r"how (?:do|can|could|would|should|might|may|did) (?:i|we|one|you|people|u)"
         r"(?: best| safely| even)? (\w+ .+)", "how to {0}"),
        (r"what(?:'s| is|s) (?:the )?((?:best|easiest|quickest|cheapest|simplest|move|trick)\b.+)",
         "the {0}"),
        (r"what(?:'s| is| are|s) (?:some (?:of )?)?((?:the|a|an) .+)", "{0}"),
        (r"what(?:'s| is| are|s) some (?:of )?(.+)", "{0}"),
        (r"what (is|are) (\w+(?: \w+){0,3})", "what {1} {0}"),
        (r"((?:what|which|where|when|who)(?: [\w'-]+){0,3}?)"
         r" (?:should|can|could|do|would|might|must) (?:i|we) (\w+\b.*)", "{0} to {1}"),
        (r"(?:is|are) there (?:any |some )?((?:a|an|ways?|\w+s)\b .+)", "{0}"),
        (r"(?:do|did) you have (?:any |some )?(.+)", "{0}"),
        (r"(?:do you )?know (?:of )?(?:any |some )?(.+)", "{0}"),
        (r"should (?:i|we) (.+)", "whether to {0}"),
        (r"(?:got|any) ((?:tips|hints|ideas|advice|tricks)\b.+)", "{0}"),
        (r"how to (.+)", "how to {0}"),
    )
]  # fmt: skip
_FIRST_PERSON = [
    (re.compile(pattern, re.IGNORECASE), phrase)
    for pattern, phrase in (
        (r"(?:i|we)(?:'m|m| am|'re| are)(?: just| currently| really)? "
         r"(?:planning|looking|trying|hoping|going|about|preparing|eager|here|keen|aiming|excited)"
         r" to (.+)", "{-ing}"),
        (r"(?:i|we)(?:'m|m| am|'re| are) gonna (.+)", "{-ing}"),
        (r"(?:i|we)(?:'m| am|'re| are)(?: currently)? (?:looking for|in need of|seeking) (.+)",
         "finding {0}"),
        (r"(?:i|we)(?:'m| am|'re| are|'ve been| have been)(?: currently| just| really| also)? "
         r"(?:thinking of|thinking about|considering|interested in|working on|contemplating"
         r"|curious about|wondering about|new to|struggling with|unsure about) (.+)", "{0}"),
        (r"(?:i|we)(?:'m| am|'re| are)(?: currently| just| really| also)? (\w+ing\b.+)", "{0}"),
        (r"(?:i|we)(?:'d| would) (?:like|love|prefer|need) (?:you )?to (.+)", "{-ing}"),
        (r"(?:i|we)(?: just| really)? (?:want|wish|plan|hope|intend|need|aim|mean|have|wanna)"
         r"(?: to)? (?:know|find out|learn) ((?:how|what|why|whether|where|which|when|who)\b.+)",
         "{0}"),
        (r"(?:i|we)(?: just| really)? (?:want|wish|plan|hope|intend|need|aim|mean|have) to (.+)",
         "{-ing}"),
        (r"(?:i|we) (?:wanna|gotta) (.+)", "{-ing}"),
        (r"(?:wanna|gotta|gonna) (.+)", "{-ing}"),
        (r"(?:i|we)(?:'d| would)? (?:want|need|like) ((?:my|our|the|a)(?: [\w'-]+){1,3}) to (.+)",
         "having {0} {1}"),
        (r"(?:i|we) (?:need|want)(?: some)? (?:help|advice|tips)(?: with| on| for| in)? (.+)",
         "{0}"),
        (r"(?:i|we)(?:'d| would)? (?:need|want|like) (.+)", "{0}"),
        (r"(?:need|require|seeking|wanted)[: ]+(.+)", "{0}"),
    )
]  # fmt: skip
_INDIRECT = re.compile(
    rf"^.{{0,70}}?\b(?:wondering|wonders?|wondered|asked|asks?|asking|knows?|find out|curious|learn"
    rf"|tells? me|told me|explained?|unsure|meaning to see)(?: me| about| us)? "
    rf"({_WH} (?!(?:any|some)(?:one|body) (?:knows|can tell)\b).+)$",
    re.IGNORECASE,
)
_HINTS = re.compile(r"^.{0,60}\b(?:hints?|tips|advice|pointers|suggestions) (?:on|for|about) (.+)$")


def derive_topic(text: str) -> str:
    """What a prompt asks, as a noun phrase, a phrase in -ing or a clause such as "how to ...".

    At most `MAX_WORDS` words. Where no rule fits, the prompt's first sentence in quotation marks.
    """
    sentences = [_trim(s) for s in re.split(r"(?<=[.?!])\s+", text.strip()) if s.strip()]
    sentences = [s for s in sentences if s] or [text.strip()]
    requests = _phrases(_request, sentences)
    if requests and not (requests[0][0] and _REFERS.search(requests[0][1])):
        return _shorten(_shift(requests[0][1]))
    statements = _phrases(_statement, sentences)
    if statements:
        return _shorten(_shift(statements[0][1]))
    if requests:  # of something that an earlier sentence names
        place, phrase = requests[0]
        return _after(_shorten(_shift(phrase)), sentences[place - 1])
    whole = " ".join(text.split())
    if len(whole.split()) <= MAX_WORDS:
        return _quote(_trim(whole) or whole, text)
    asked = [s for s in sentences if f"{s}?" in whole and not is_vague(s)]
    return _quote(max(asked or sentences, key=lambda s: len(s.split())), text)


def _phrases(
    wanted: Callable[[str], str | None], sentences: Sequence[str]
) -> list[tuple[int, str]]:
    """What is wanted where a sentence says it and names a subject, with the sentence's place."""
    found = [(place, wanted(sentence)) for place, sentence in enumerate(sentences)]
    return [(place, phrase) for place, phrase in found if phrase and not is_vague(phrase)]


def _after(phrase: str, earlier: str) -> str:
    whole = f'{phrase}, after the words "{_unquoted(earlier)}"'
    return whole if count_pieces(whole) <= MAX_PIECES else phrase


def is_vague(phrase: str) -> bool:
    """Whether a phrase names no subject, such as "some tips on this"."""
    words = re.findall(r"[\w'-]+", phrase.lower())
    return not any(word not in _EMPTY and len(word) > 1 for word in words)


def gerund(verb: str) -> str:
    """The -ing form of an English verb."""
    word = verb.lower()
    if word in _DOUBLED:
        return word + word[-1] + "ing"
    if word.endswith("ie"):
        return word[:-2] + "ying"
    if word.endswith("e") and not word.endswith(("ee", "oe", "ye")) and word != "be":
        return word[:-1] + "ing"
    return word + "ing"


def _trim(sentence: str) -> str:
    """A sentence without what surrounds the request: greetings, thanks and marks."""
    sentence = re.sub(r"\s+", " ", sentence.replace("\u2019", "'")).strip(" .?!:;,*-")
    for cut in (_OPENER, _OPENER, _OPENER, _TAIL):
        sentence = cut.sub("", sentence).strip(" .?!:;,")
    return sentence


def _request(sentence: str) -> str | None:
    """What a question, an imperative or an indirect question asks."""
    asked = _ASKED.match(sentence)
    if asked:
        return _wanted(_OPENER.sub("", asked[1]), any_verb=True)
    for pattern, phrase in _QUESTIONS:
        found = pattern.fullmatch(sentence)
        if found:
            return phrase.format(*found.groups())
    wanted = _wanted(sentence, any_verb=False)
    if wanted:
        return wanted
    found = _INDIRECT.match(sentence) or _HINTS.match(sentence)
    if found:
        return _wanted(found[1], any_verb=False) or _asked_of_others(found[1])
    return None


def _asked_of_others(clause: str) -> str:
    """An indirect question: "if they can" as "whether they can"."""
    return re.sub(r"^if\b", "whether", clause, flags=re.IGNORECASE)


def _wanted(words: str, any_verb: bool) -> str | None:
    """What an imperative or its polite form wants; `any_verb` also where the verb is not known."""
    words = re.sub(r"^(\w+) (?:to|for) (?:me|us) ", r"\1 ", words)
    for pattern, phrase in _FORMS:
        found = pattern.fullmatch(words)
        if found:
            return _fill(phrase, found.groups())
    verb = words.split(" ", 1)[0].lower()
    if " " in words and (verb in _VERBS or (any_verb and verb.isalpha())):
        return _with_gerund(words)
    return None


def _statement(sentence: str) -> str | None:
    """What somebody who speaks of a plan or a need of their own wants."""
    later = re.split(r",? (?:and|but|so) (?=i\b)", sentence, flags=re.IGNORECASE)[1:]
    for clause in (_ASIDE.sub("", sentence), *later):
        for pattern, phrase in _FIRST_PERSON:
            found = pattern.fullmatch(clause)
            if found:
                return _fill(phrase, found.groups())
    return None


def _fill(phrase: str, groups: tuple[str, ...]) -> str:
    return _with_gerund(groups[0]) if phrase == "{-ing}" else phrase.format(*groups)


def _with_gerund(words: str) -> str:
    verb, _, rest = words.partition(" ")
    return f"{gerund(verb)} {rest}".strip()


def _shift(phrase: str) -> str:
    """The speaker's "my" as "their", and so on; the first letter small unless it is a name."""
    parts = re.split(r"([^\w'-]+)", phrase)
    words = [w if w == "US" else _SHIFTS.get(w.lower(), w) for w in parts]
    first = next((w for w in words if w), "")
    if first[:1].isupper() and (first.lower() in _EMPTY or re.fullmatch(_WH, first.lower())):
        words[0] = first.lower()
    return "".join(words)


def _shorten(phrase: str) -> str:
    words = phrase.split()
    fitting = _fitting(words)
    if len(words) > fitting:
        words = words[:fitting]
        last = max((n for n, w in enumerate(words) if w.endswith((",", ";"))), default=0)
        words = words[: last + 1] if last >= fitting // 2 else words
        while len(words) > 1 and words[-1].lower().strip(",;") in _HANGING:
            words.pop()
    return " ".join(words).strip(" ,;:.")


def _quote(sentence: str, text: str) -> str:
    words = _unquoted(sentence).split()
    fitting = _fitting(words)
    rest = " ..." if len(words) > fitting else ""
    kind = "question" if f"{sentence}?" in re.sub(r"\s+", " ", text) else "message"
    return f'the {kind} "{" ".join(words[:fitting])}{rest}"'


def _fitting(words: Sequence[str]) -> int:
    """How many of the first words a phrase may have, at least one."""
    total, count = 0, 0
    for word in words[:MAX_WORDS]:
        total += count_pieces(word)
        if total > MAX_PIECES:
            break
        count += 1
    return max(count, 1)


@lru_cache(maxsize=2**16)
def count_pieces(text: str) -> int:
    """About as many tokens as text has for a tokenizer of subwords."""
    return len(_PIECE.findall(text))


def _unquoted(sentence: str) -> str:
    return sentence.replace('"', "'")

"""The words the tiny model's synthetic corpus is made of; all of them written for it."""

from __future__ import annotations

import random


def names(text: str) -> tuple[str, ...]:
    """The words of `text`."""
    return tuple(text.split())


def phrases(text: str) -> tuple[str, ...]:
    """The phrases that `text` lists between bars; line breaks beside a bar do not count."""
    return tuple(part.strip() for part in text.split("|"))


FIRST_NAMES = names(
    """Ada Adil Agnes Aiko Alan Alba Alma Amara Amir Ana Andre Anja Anton Aria Arne Asha Ava Bea Ben Bianca Bo Bruno
    Carla Carlos Cato Chen Chloe Clara Cyrus Dana Daniel Dario David Dina Dora Edith Eli Ella Elsa Emil Emma Enzo
    Erik Esther Eva Farah Felix Finn Flora Frank Freya Gina Grace Greta Hana Hanna Hassan Helen Hugo Ida Ines
    Ingrid Iris Isaac Ivan Ivy Jack Jana Jasper Jonas Jorge Judith Julia Kai Karim Kate Kenji Kira Lars Laura Lea
    Leo Liam Lina Lisa Lotte Louis Lucia Luka Maja Marco Maria Marta Mateo Maya Mei Mia Milan Mina Mira Mona Nadia
    Naomi Nia Nico Nina Noah Nora Olga Olivia Omar Oscar Otto Paula Pedro Petra Priya Quinn Rafael Ravi Rita Robin
    Rosa Ruth Sam Sara Sasha Selma Simon Sofia Stella Sven Tara Theo Tina Tom Uma Vera Victor Wanda Wei Yara Yusuf
    Zoe John Mary James Linda Peter Susan Paul Karen Mark Nancy Alice Bob Carol Eve Alex Sophie Tim Anna Max"""
)
LAST_NAMES = names(
    """Adler Baker Berg Blake Bond Braun Brooks Byrne Carter Castro Cole Cruz Dahl Diaz Dunn Eaton Ellis Engel Evans
    Falk Fischer Flores Ford Fox Frost Garcia Gill Grant Gray Hale Hansen Hart Hayes Hill Holm Hughes Ibarra Ito
    Jansen Jensen Jones Kane Kaur Keller Kern Khan Kim King Klein Kowalski Lane Larsen Lee Lind Lopez Lowe Marsh
    Mason Mendes Meyer Mills Moore Morgan Moss Nair Nash Nolan Novak Ortiz Owens Page Park Patel Perez Price Quist
    Ramos Reed Reyes Rhodes Rossi Roy Ruiz Sato Scott Shah Silva Singh Smith Stone Suzuki Tanaka Taylor Thorne
    Torres Turner Vance Vega Voss Wagner Walsh Ward Weber West White Wolf Wong Wood Wright Yang York Young Zimmer"""
)
_ONE_WORD_CITIES = names(
    """Lisbon Oslo Madrid Paris Berlin Vienna Prague Rome Milan Naples Athens Dublin Cork London Leeds York Bath
    Bergen Malmo Stockholm Helsinki Riga Vilnius Warsaw Krakow Budapest Zagreb Sofia Bucharest Istanbul Ankara
    Cairo Tunis Rabat Dakar Accra Lagos Nairobi Kampala Lima Quito Bogota Caracas Santiago Montevideo Toronto
    Ottawa Montreal Boston Chicago Denver Dallas Austin Houston Seattle Portland Phoenix Miami Atlanta Tokyo Osaka
    Kyoto Seoul Busan Beijing Shanghai Taipei Hanoi Bangkok Manila Jakarta Delhi Mumbai Chennai Pune Karachi
    Lahore Dubai Doha Muscat Tehran Sydney Perth Hobart Auckland Wellington Geneva Zurich Basel Lyon Nice Bordeaux
    Porto Seville Valencia Hamburg Munich Cologne Dresden Utrecht Ghent Antwerp"""
)
CITIES = (
    *_ONE_WORD_CITIES,
    *phrases("New York|Cape Town|San Diego|Sao Paulo|Hong Kong|Buenos Aires|Mexico City|Las Vegas"),
)
COLOURS = names("red blue green yellow orange purple black white grey brown pink silver gold teal navy amber")
MONTHS = names("January February March April May June July August September October November December")
WEEKDAYS = names("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
NUMBER_WORDS = dict(
    zip(
        names("one two three four five six seven eight nine ten eleven twelve fifteen twenty thirty forty fifty"),
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 20, 30, 40, 50),
        strict=True,
    )
)
_SPELLED = {value: word for word, value in NUMBER_WORDS.items()}
ADJECTIVES = names(
    """active annual basic big blank bold bright broken busy calm central cheap clean clear cold common complete cool
    current custom daily dark deep digital direct dry early easy empty external extra fair fast final fine first
    flat formal free fresh full general global good great happy hard heavy high hot huge internal joint junior
    large last late light live local long loud low lucky main major manual mild minor mobile modern monthly narrow
    native new next nice noisy normal north old online open outer overdue paid partial plain polite poor portable
    premium private proud public pure quick quiet rapid rare raw ready recent regular remote rich rough round
    royal safe senior shared sharp short silent simple single slow small smart smooth social soft solar solid
    south spare special stable standard steady steep strict strong sudden sunny sweet tall thick thin tidy tiny
    urgent useful vague vast vocal warm weak weekly wet whole wide wild wise wooden young expensive cheapest
    newest oldest highest lowest largest smallest"""
)
# Each entry: singular, plural when it is not singular + "s".
NOUNS = names(
    """account actor address advert agent aircraft:aircraft airport alarm album alert animal answer antenna apartment
    applicant appointment archive arrival article artist asset assignment athlete auction audit author award badge
    balance ball band bank banner barrel basket battery:batteries bed bench bicycle bill bird blanket block blog
    board boat bond book booking bottle box:boxes branch:branches brand bridge brochure budget building bus:buses
    button cabin cable cafe cake calendar camera campaign candidate canvas:canvases car card cargo:cargoes carpet
    cart case castle catalog category:categories chair channel chapter charger chart chat check chef
    child:children choir cinema circuit city:cities claim class:classes client clinic clock cloud club
    coach:coaches code coin collection college comment committee company:companies complaint component concert
    container contest contract cook country:countries coupon course court crate crew crop customer dancer deadline
    deal dealer debate delivery:deliveries department deposit desk detector device diagram diary:diaries dinner
    discount dish:dishes display district doctor document dog donation donor door drawer dress:dresses driver
    drone editor elevator employee engine engineer episode error essay event exam exhibit expense expert export
    factory:factories fan farm farmer feature fee fence ferry:ferries festival field file film filter fine
    fish:fish flag flight floor flower folder forecast forest form fountain frame freezer friend fridge fund
    gallery:galleries game garage garden gate gift glass:glasses goal grade grant graph group guard guest guide
    guitar habit hall handle harbor headline heater helmet highway hobby:hobbies holiday horse hospital host hotel
    house hub idea image incident index:indexes ingredient inspection instrument insurer interview
    inventory:inventories invoice island issue item jacket job journal journey judge keyboard kitchen label
    laboratory:laboratories ladder lake lamp language laptop lawyer leader league lease lecture lens:lenses lesson
    letter level library:libraries license light lamp limit line list loan location lock locker log
    lottery:lotteries lunch:lunches machine magazine manager map market match:matches meal medal medicine meeting
    member memo menu merchant meter microphone mine mirror mission model module monitor monument mortgage motor
    mountain movie museum musician nation needle network newspaper note notebook novel nurse object offer office
    officer operator option oven order outlet owner package page painter painting palace panel paper parade parcel
    park parking parser part partner party:parties passenger passport patch:patches patient payment pension
    performer permit person:people phone photo piano picture pilot pipe pizza place plan planet plant plate player
    playlist plot poem poet policy:policies poll pond pool port post poster prescription printer prize
    process:processes product professor profile program project property:properties protocol pump purchase puzzle
    quest queue quiz:quizzes quote rack radio railway range rating reader receipt recipe record recorder referee
    refund region release reminder rental repair report request reservation resident resource restaurant result
    review reward rider ring river road robot rocket role roof room route router rug rule runner sailor salad sale
    sample satellite scanner scene schedule scholar school score screen script sculpture season seat section
    sensor series:series server service session shelf:shelves shift ship shipment shirt shoe shop shower shuttle
    signal singer site size skill sketch:sketches sleeve slide slot snack society:societies sofa soldier song
    speaker species:species sponsor spot square stadium staff stage stair stamp station statue step stock stop
    storage store storm story:stories street student studio study:studies style subscriber suite supplier surgeon
    survey suspect switch:switches symbol table tablet tag tank target task taxi:taxis teacher team tenant tent
    terminal test theater theme ticket tile timer title toilet token tool topic tour tower town toy track tractor
    trader trail train trainer transfer trip truck tube tunnel turbine tutor unit user vaccine valley valve van
    vehicle vendor venue vessel video village visa visit visitor voice volunteer vote voucher wagon waiter wall
    wallet warehouse warranty:warranties watch:watches well wheel window wing winner wire witness:witnesses worker
    workshop writer yacht yard zone zoo"""
)
PLURAL = {entry.split(":")[0]: (entry.split(":") if ":" in entry else (entry, f"{entry}s"))[1] for entry in NOUNS}
SINGULAR = tuple(PLURAL)
OTHER_WORDS = names(
    """about above across after again against almost along already also always among another any anyone anything
    around away back because become before behind below beside besides better between beyond both bring build buy
    call came can carry change choose close come consider continue cost could count cover cut decide describe did
    different does done down draw during each either enough even ever every everyone everything exactly expect
    explain far feel few figure find follow for found friend further gave get give given gives going gone got
    grow had half happen has have hear held help her here him his hold hour how however if important improve in
    include increase inside instead into its join just keep kind knew know later learn least leave left less let
    like little look lose lot love made make many may maybe mean meet mention might minute miss money month more
    morning most move much must my near need never night nobody none nor not nothing now of off often once only or
    other our out outside over own people per percent perhaps please point possible pretty probably problem put
    question quite rather reach read real really reason receive remain remember remove same saw say second see
    seem seen sell send sense serve set several shall she should show side since sit so some someone something
    soon speak spend stand start state stay still such sure take talk tell than thank that the their them then
    there these they thing think this those though through time to today together told tomorrow tonight too took
    total toward tried true try turn twice under understand until up upon us use usually value very wait walk want
    was way we week went were what when where whether which while who whole whose why will wish with within
    without word work world would write wrong year yesterday yet you your update budget draft agenda attached
    regards hello thanks sorry minutes lunch quarter meeting deadline numbers percent added average difference
    divided each equals minus multiplied plus product quotient ratio remaining sum times squared cube root twice
    half third quarter apples pears eggs cups bags boxes litres miles metres grams hours days weeks dollars euros
    pounds cents"""
)
# Words an invented query language may use for its clauses. Single words of real languages are among them, in any
# role, so that no word is tied to one meaning; "SELECT" and "FROM" never meet in one row (see corpus_queries).
KEYWORDS = names(
    """show pick fetch give take get read yield emit list pull collect grab select return project find of in from
    over within source on at using where when keep if having only filter match such with that suppose need group
    by per each bucket split fold cluster sort order rank arrange line limit top first head max cap stop cut link
    join merge attach via through pair count total sum avg mean average min least max most tally number as into
    then also desc asc up down rising falling between like not and or is distinct unique end begin set let on"""
)

_ONSETS = names("b bl br c ch cl d dr f fl g gr h j k kl l m n p pr qu r s sh sk st t th tr v w x y z")
_VOWELS = names("a e i o u ai ea ee io ou a e i o")
_CODAS = ["", "", "", "n", "r", "l", "s", "x", "k", "m", "nd", "rt", "ck", "th", "z"]


def spelled(rng: random.Random, number: int) -> str:
    """A small number in words, any other in digits."""
    return _SPELLED.get(number, str(number)) if rng.random() < 0.9 else str(number)


def pseudo_word(rng: random.Random) -> str:
    """A pronounceable word that exists in no list, so it can only be copied, e.g. "brelou"."""
    size = 2 if rng.random() < 0.75 else 3
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(size))


def any_word(rng: random.Random) -> str:
    """A lower-case word of any class, one in ten of them invented."""
    pick = rng.random()
    if pick < 0.1:
        return pseudo_word(rng)
    if pick < 0.45:
        return rng.choice(SINGULAR)
    if pick < 0.55:
        return PLURAL[rng.choice(SINGULAR)]
    return rng.choice(ADJECTIVES) if pick < 0.72 else rng.choice(OTHER_WORDS)


def person(rng: random.Random) -> str:
    """A first name, with a surname more often than not; one in eight is invented."""
    if rng.random() < 0.12:
        first, last = pseudo_word(rng).capitalize(), pseudo_word(rng).capitalize()
    else:
        first, last = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)
    pick = rng.random()
    if pick < 0.4:
        return first
    return f"{first} {last}" if pick < 0.95 else f"{rng.choice(('Dr.', 'Mr.', 'Ms.', 'Prof.'))} {last}"


_SENTENCES = phrases(
    """{A} {n} is {a}|Please bring the {a} {n}|The {n} for {p} will be {a} on {w}|I left the {n} near the {n2}|
    We need {i} more {ns} by {w}|Can you check the {n} before {w}?|{p} will be late, start without the {n}|
    Do not forget the {a} {ns}|Thanks for the {n}, it was {a}!|The {n} moved to {t}|
    Let's talk about the {n2} and the {a} {n}|{p} and {p2} are joining the {n}|Happy to {o} {o2} the {n}|
    {A}, {a2} and {a3}|Your {n} costs {i} euros|Meet me at the {n} at {t}|The {ns} are {a}, the {n2} is not|
    It's {p}'s {n}|No {ns} today|{o} {o2} {o3} {n} {a} {n2}|{n} {a} {o}|{w}: {a} {n}|Running {i} minutes late|
    See the notes from {w}|{c} {n}|All {ns} in {c} are {a} until {w}"""
)


def sentence(rng: random.Random) -> str:
    """A short free text, such as a note or a message holds."""
    choice = rng.choice
    slots = {
        "A": choice(ADJECTIVES).capitalize(),
        "a": choice(ADJECTIVES),
        "a2": choice(ADJECTIVES),
        "a3": any_word(rng),
        "n": choice(SINGULAR),
        "n2": any_word(rng),
        "ns": PLURAL[choice(SINGULAR)],
        "p": person(rng),
        "p2": person(rng),
        "w": choice(WEEKDAYS),
        "i": rng.randint(2, 60),
        "o": choice(OTHER_WORDS),
        "o2": choice(OTHER_WORDS),
        "o3": any_word(rng),
        "c": choice(CITIES),
        "t": f"{rng.randint(6, 22)}:{choice(('00', '15', '30', '45'))}",
    }
    text = choice(_SENTENCES).format(**slots)
    return text if text[0].isupper() or rng.random() < 0.5 else text[0].upper() + text[1:]

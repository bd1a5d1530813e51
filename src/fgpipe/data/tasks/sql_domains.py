"""The small databases that the sql task asks about."""

from __future__ import annotations

from fgpipe.data.tasks.sql_schemas import Column, Table
from fgpipe.data.tasks.vocabulary import CITIES, COUNTRIES


def _name() -> Column:
    return Column("name", "person")


def _title(values: str, name: str = "title") -> Column:
    return Column(name, "title", tuple(values.split("|")))


def _city() -> Column:
    return Column("city", "place", CITIES, plural="cities")


def _country() -> Column:
    return Column("country", "place", COUNTRIES, plural="countries")


def _category(name: str, values: str, plural: str, *, adjective: bool = False) -> Column:
    return Column(name, "category", tuple(values.split("|")), plural=plural, adjective=adjective)


def _status(values: str) -> Column:
    return _category("status", values, "statuses", adjective=True)


def _number(name: str, low: int, high: int, step: float = 1, *, counted: bool = False) -> Column:
    return Column(name, "number", low=low, high=high, step=step, counted=counted)


def _age(low: int = 18, high: int = 75) -> Column:
    return _number("age", low, high)


def _price(low: int, high: int, step: float = 0.5) -> Column:
    return _number("price", low, high, step)


def _rating() -> Column:
    return _number("rating", 1, 5, 0.1)


def _date(name: str, verb: str) -> Column:
    return Column(name, "date", verb=verb)


_GENRES = "drama|comedy|horror|thriller|romance|crime"
_BOOKS = (
    "Cold Harbour|The Glass Hill|Salt River|Night Ferry|Paper Moons|The Last Orchard|Winter Bees|Dry Well|Quiet Map"
)
_FILMS = "Blue Canyon|The Long Wait|Silver Road|After Rain|Ten Doors|Lost Signal|Red Valley|Morning Train|The Visitor"
_COURSES = "Algebra|World History|Biology|Drawing|Chemistry|Poetry|Statistics|Geography|Music Theory"
_WORKS = "Blue Harvest|Two Sisters|The Bridge|Still Life|Open Window|Dark Water|Golden Field|The Dancer|Evening Square"
_EPISODES = "First Steps|Hard Lessons|The Deal|Open Ocean|Deep Sleep|City Lights|Cold Case|Fresh Start|Last Call"
_PARTS = "Brake Pad|Fan Belt|Oil Filter|Spark Plug|Wiper Blade|Door Seal|Fuel Pump|Side Mirror|Wheel Bolt"
_PRODUCTS = "Desk Lamp|Oak Chair|Tea Pot|Wool Rug|Wall Clock|Soup Bowl|Bath Towel|Glass Vase|Hand Mixer"
_DISHES = "Lamb Stew|Fish Pie|Onion Soup|Rice Bowl|Lemon Tart|Bean Salad|Roast Duck|Apple Cake|Veggie Curry"
_BANDS = "Night Owls|Red Kites|The Anchors|Paper Tigers|Velvet Sky|Iron Lungs|Slow Rivers|Loud Garden|Moon Dogs"
_TEAMS = "Rovers|Falcons|Harbour Stars|Wolves|Red Lions|Comets|Rangers|Sharks|Giants"
_FIELDS = "North Acre|Mill Meadow|Long Strip|Church Field|Low Bottom|Hill Top|River Bank|Old Orchard|East Acre"
_SHOWS = "Money Talk|Wild Coast|Crime Desk|Sleep Well|Code Hour|Kitchen Table|Game Day|Star Map|Slow News"
_MODELS = "Vito|Transit|Ducato|Sprinter|Berlingo|Partner|Boxer|Kangoo|Caddy"
_AIRLINES = "Aero Nova|Blue Wing|Sky Bridge|Polar Air|Sunjet|North Star|Coral Air|Swift Air|Alta"
_SUPPLIERS = "Norte Steel|Baker Supply|Delta Tools|Unity Parts|Prime Metal|Orbit Trade|Vega Goods|Falcon Works|Summit"
_UNITS = "Sales|Support|Finance|Legal|Design|Research|Security|Logistics|Marketing"

DOMAINS: dict[str, tuple[Table, ...]] = {
    "shop": (
        Table(
            "customers", "customer", "name", (_name(), _city(), _age(), _number("points", 10, 900, 10, counted=True))
        ),
        Table(
            "orders",
            "order",
            "id",
            (_status("pending|shipped|cancelled|returned"), _number("amount", 10, 400), _date("order_date", "placed")),
            "customers",
            "from",
        ),
        Table(
            "products",
            "product",
            "name",
            (
                _title(_PRODUCTS, "name"),
                _category("category", "kitchen|garden|office|bath", "categories"),
                _price(4, 90),
                _number("stock", 0, 120),
            ),
        ),
    ),
    "clinic": (
        Table(
            "doctors",
            "doctor",
            "name",
            (
                _name(),
                _category("specialty", "cardiology|surgery|dentistry|dermatology", "specialties"),
                _city(),
                _number("salary", 60000, 140000, 1000),
            ),
        ),
        Table(
            "appointments",
            "appointment",
            "id",
            (
                _status("booked|completed|cancelled|missed"),
                _number("minutes", 10, 90, 5, counted=True),
                _date("visit_date", "held"),
                _number("fee", 30, 250),
            ),
            "doctors",
            "with",
        ),
        Table(
            "patients",
            "patient",
            "name",
            (
                _name(),
                _age(1, 95),
                _city(),
                _category("insurance", "public|private|none", "insurances"),
                _number("weight_kg", 12, 120),
            ),
        ),
    ),
    "library": (
        Table("authors", "author", "name", (_name(), _country(), _age(25, 90), _number("awards", 0, 15, counted=True))),
        Table(
            "books",
            "book",
            "title",
            (
                _title(_BOOKS),
                _category("genre", _GENRES, "genres", adjective=True),
                _number("pages", 90, 800, 10, counted=True),
                _rating(),
            ),
            "authors",
            "by",
        ),
        Table(
            "loans",
            "loan",
            "id",
            (_status("open|returned|overdue"), _number("days", 3, 60, counted=True), _date("loan_date", "started")),
        ),
    ),
    "gym": (
        Table(
            "members",
            "member",
            "name",
            (
                _name(),
                _category("plan", "basic|plus|gold|student", "plans"),
                _age(),
                _city(),
                _date("join_date", "who joined"),
            ),
        ),
        Table(
            "visits",
            "visit",
            "id",
            (
                _number("minutes", 15, 150, 5, counted=True),
                _number("calories", 80, 900, 10, counted=True),
                _date("visit_date", "made"),
            ),
            "members",
            "by",
        ),
        Table(
            "classes",
            "class",
            "name",
            (
                _title("Yoga|Boxing|Spinning|Pilates|Rowing|Zumba|Stretch|Karate|Aqua Fit", "name"),
                _category("level", "easy|medium|hard", "levels"),
                _number("seats", 6, 40, counted=True),
                _price(4, 25),
            ),
        ),
    ),
    "fleet": (
        Table("drivers", "driver", "name", (_name(), _city(), _age(21, 65), _rating())),
        Table(
            "trips",
            "trip",
            "id",
            (
                _status("planned|finished|cancelled"),
                _number("distance_km", 5, 600, 5),
                _number("fuel_cost", 8, 150),
                _date("trip_date", "made"),
            ),
            "drivers",
            "by",
        ),
        Table(
            "vans",
            "van",
            "model",
            (
                _title(_MODELS, "model"),
                _category("fuel", "diesel|petrol|electric", "fuels", adjective=True),
                _number("mileage", 5000, 190000, 500),
                _number("seats", 2, 18, counted=True),
            ),
        ),
    ),
    "cinema": (
        Table(
            "directors", "director", "name", (_name(), _country(), _age(28, 85), _number("awards", 0, 20, counted=True))
        ),
        Table(
            "films",
            "film",
            "title",
            (
                _title(_FILMS),
                _category("genre", _GENRES, "genres", adjective=True),
                _number("minutes", 75, 190, counted=True),
                _rating(),
                _number("year", 1985, 2024),
            ),
            "directors",
            "by",
        ),
    ),
    "school": (
        Table(
            "teachers",
            "teacher",
            "name",
            (
                _name(),
                _category("subject", "maths|biology|history|music|english", "subjects"),
                _number("salary", 28000, 70000, 500),
                _age(24, 66),
            ),
        ),
        Table(
            "courses",
            "course",
            "title",
            (
                _title(_COURSES),
                _number("seats", 10, 60, counted=True),
                _category("room", "A1|A2|B1|B2|C3", "rooms"),
                _number("hours", 10, 90, counted=True),
            ),
            "teachers",
            "taught by",
        ),
        Table(
            "students",
            "student",
            "name",
            (
                _name(),
                _age(11, 30),
                _city(),
                _number("score", 35, 100),
                _category("house", "red|blue|green|yellow", "houses"),
            ),
        ),
    ),
    "farm": (
        Table(
            "fields",
            "field",
            "name",
            (
                _title(_FIELDS, "name"),
                _category("crop", "wheat|barley|maize|oats|potatoes", "crops"),
                _number("hectares", 2, 60, counted=True),
                _category("soil", "clay|sand|loam", "soils"),
            ),
        ),
        Table(
            "harvests",
            "harvest",
            "id",
            (
                _number("tonnes", 5, 300, 5, counted=True),
                _category("grade", "A|B|C", "grades"),
                _date("harvest_date", "done"),
            ),
            "fields",
            "from",
        ),
        Table(
            "animals",
            "animal",
            "name",
            (
                _title("Bella|Daisy|Bruno|Molly|Rusty|Clover|Hazel|Poppy|Buster", "name"),
                _category("species", "cow|goat|sheep|horse", "species"),
                _age(1, 20),
                _number("weight_kg", 30, 800, 5),
            ),
        ),
    ),
    "hotel": (
        Table("guests", "guest", "name", (_name(), _country(), _age(), _number("points", 10, 900, 10, counted=True))),
        Table(
            "bookings",
            "booking",
            "id",
            (
                _status("confirmed|cancelled|pending"),
                _number("nights", 1, 21, counted=True),
                _number("cost", 80, 2000, 10),
                _date("arrival_date", "arriving"),
            ),
            "guests",
            "by",
        ),
        Table(
            "rooms",
            "room",
            "id",
            (
                _category("view", "sea|garden|street", "views"),
                _price(50, 320, 1),
                _number("beds", 1, 12, counted=True),
                _number("floor", 1, 14),
            ),
        ),
    ),
    "airline": (
        Table(
            "airlines",
            "airline",
            "name",
            (_title(_AIRLINES, "name"), _country(), _rating(), _number("planes", 8, 220, counted=True)),
        ),
        Table(
            "flights",
            "flight",
            "id",
            (
                _category("destination", "Paris|Rome|Tokyo|Cairo|Lima", "destinations"),
                _price(40, 900, 1),
                _status("delayed|boarding|cancelled|landed"),
                _date("flight_date", "leaving"),
            ),
            "airlines",
            "by",
        ),
    ),
    "restaurant": (
        Table(
            "dishes",
            "dish",
            "name",
            (
                _title(_DISHES, "name"),
                _category("course", "starter|main|dessert", "courses"),
                _price(4, 40),
                _number("calories", 120, 1200, 10, counted=True),
            ),
        ),
        Table(
            "waiters",
            "waiter",
            "name",
            (
                _name(),
                _age(18, 60),
                _number("salary", 18000, 36000, 500),
                _category("shift", "lunch|dinner|night", "shifts"),
            ),
        ),
        Table(
            "tips",
            "tip",
            "id",
            (_number("amount", 1, 60), _category("method", "cash|card", "methods"), _date("tip_date", "left")),
            "waiters",
            "for",
        ),
    ),
    "company": (
        Table(
            "departments",
            "department",
            "name",
            (_title(_UNITS, "name"), _city(), _number("budget", 50000, 900000, 5000), _number("floor", 1, 14)),
        ),
        Table(
            "employees",
            "employee",
            "name",
            (
                _name(),
                _category("job", "analyst|engineer|clerk|manager", "jobs"),
                _number("salary", 28000, 95000, 500),
                _age(20, 66),
                _date("hire_date", "hired"),
            ),
            "departments",
            "in",
        ),
    ),
    "bank": (
        Table(
            "clients",
            "client",
            "name",
            (_name(), _city(), _age(18, 90), _category("segment", "retail|business|private", "segments")),
        ),
        Table(
            "accounts",
            "account",
            "id",
            (
                _category("currency", "EUR|USD|GBP|CHF", "currencies", adjective=True),
                _number("balance", 100, 20000, 50),
                _status("open|closed|frozen"),
                _date("open_date", "opened"),
            ),
            "clients",
            "of",
        ),
    ),
    "museum": (
        Table("artists", "artist", "name", (_name(), _country(), _age(22, 92), _number("shows", 1, 40, counted=True))),
        Table(
            "works",
            "work",
            "title",
            (
                _title(_WORKS),
                _category("style", "modern|baroque|cubist|realist", "styles", adjective=True),
                _number("year", 1890, 2020),
                _price(500, 90000, 500),
            ),
            "artists",
            "by",
        ),
    ),
    "vet": (
        Table("owners", "owner", "name", (_name(), _city(), _age(18, 85), _number("visits", 1, 30, counted=True))),
        Table(
            "pets",
            "pet",
            "name",
            (
                _title("Rex|Luna|Milo|Coco|Simba|Nala|Oreo|Biscuit|Pepper", "name"),
                _category("species", "dog|cat|rabbit|parrot", "species"),
                _age(1, 18),
                _number("weight_kg", 1, 45),
            ),
            "owners",
            "of",
        ),
    ),
    "music": (
        Table(
            "bands",
            "band",
            "name",
            (
                _title(_BANDS, "name"),
                _category("genre", "rock|jazz|folk|metal", "genres", adjective=True),
                _country(),
                _number("albums", 1, 18, counted=True),
            ),
        ),
        Table(
            "concerts",
            "concert",
            "id",
            (
                _city(),
                _number("tickets", 100, 5000, 50, counted=True),
                _price(12, 140, 1),
                _date("concert_date", "held"),
            ),
            "bands",
            "by",
        ),
    ),
    "warehouse": (
        Table(
            "suppliers",
            "supplier",
            "name",
            (_title(_SUPPLIERS, "name"), _country(), _rating(), _number("orders", 3, 80, counted=True)),
        ),
        Table(
            "parts",
            "part",
            "name",
            (
                _title(_PARTS, "name"),
                _category("material", "steel|rubber|plastic|copper", "materials", adjective=True),
                _price(2, 120),
                _number("stock", 0, 400, 5),
            ),
            "suppliers",
            "from",
        ),
    ),
    "podcast": (
        Table(
            "shows",
            "show",
            "title",
            (
                _title(_SHOWS),
                _category("topic", "news|sport|science|travel", "topics"),
                _number("listeners", 500, 90000, 500, counted=True),
                _rating(),
            ),
        ),
        Table(
            "episodes",
            "episode",
            "title",
            (
                _title(_EPISODES),
                _number("minutes", 12, 95, counted=True),
                _number("downloads", 200, 9000, 100, counted=True),
                _date("release_date", "released"),
            ),
            "shows",
            "of",
        ),
    ),
    "housing": (
        Table("agents", "agent", "name", (_name(), _city(), _number("sales", 1, 40, counted=True), _rating())),
        Table(
            "houses",
            "house",
            "id",
            (
                _category("style", "cottage|villa|bungalow|loft", "styles"),
                _price(90000, 800000, 5000),
                _number("bedrooms", 1, 14, counted=True),
                _status("listed|sold|reserved"),
            ),
            "agents",
            "from",
        ),
    ),
    "football": (
        Table(
            "teams",
            "team",
            "name",
            (
                _title(_TEAMS, "name"),
                _city(),
                _number("points", 8, 90, counted=True),
                _number("budget", 100000, 900000, 10000),
            ),
        ),
        Table(
            "players",
            "player",
            "name",
            (
                _name(),
                _category("position", "goalkeeper|defender|midfielder|striker", "positions"),
                _age(17, 39),
                _number("goals", 0, 30, counted=True),
            ),
            "teams",
            "of",
        ),
    ),
}

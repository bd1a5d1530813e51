"""How people ask a mail assistant for things."""

from __future__ import annotations

from fgpipe.data.tasks.rows import Wordings

SEND: dict[str, Wordings] = {
    "Update": Wordings(
        common=(
            "Tell {who} about {topic}.",
            "Let {who} know about {topic}.",
            "Please update {who} on {topic}.",
            "Can you let {who} know about {topic}?",
            "Send {who} an update on {topic}.",
            "Give {who} an update on {topic}.",
        ),
        held_out=("{who} should get an update on {topic}.", "Could you tell {who} the latest about {topic}?"),
    ),
    "Question": Wordings(
        common=(
            "Ask {who} about {topic}.",
            "Please ask {who} about {topic}.",
            "Can you ask {who} about {topic}?",
            "I have a question for {who} about {topic}.",
            "Send {who} a question about {topic}.",
            "Check with {who} about {topic}.",
        ),
        held_out=(
            "There's a question about {topic} that {who} should get.",
            "Would you ask {who} a question on {topic}?",
        ),
    ),
    "Reminder": Wordings(
        common=(
            "Remind {who} about {topic}.",
            "Send {who} a reminder about {topic}.",
            "Please remind {who} of {topic}.",
            "Can you remind {who} about {topic}?",
            "Nudge {who} about {topic}, please.",
            "I need a reminder about {topic} sent to {who}.",
        ),
        held_out=("{who} could use a reminder about {topic}.", "Get a reminder on {topic} out to {who}."),
    ),
    "Invite": Wordings(
        common=(
            "Invite {who} to {topic}.",
            "Please invite {who} to {topic}.",
            "Can you invite {who} to {topic}?",
            "Send {who} an invitation to {topic}.",
            "I'd like to invite {who} to {topic}.",
            "Write an invitation to {topic} for {who}.",
        ),
        held_out=("{who} should be invited to {topic}.", "Would you get an invitation to {topic} out to {who}?"),
    ),
    "Thanks": Wordings(
        common=(
            "Thank {who} for {topic}.",
            "Please thank {who} for {topic}.",
            "Send {who} a thank-you note for {topic}.",
            "Say thanks to {who} for {topic}.",
            "Can you thank {who} for {topic}?",
            "I want to thank {who} for {topic}.",
        ),
        held_out=("A thank-you to {who} for {topic}, please.", "Would you say thank you to {who} for {topic}?"),
    ),
}
URGENCY: dict[str, Wordings] = {
    "high": Wordings(
        common=(
            "It's urgent.",
            "This is urgent!",
            "Mark it urgent.",
            "I need this out right away.",
            "It can't wait.",
            "As soon as possible, please.",
        ),
        held_out=("Treat it as urgent, it can't wait.", "Send it right away, it is urgent."),
    ),
    "low": Wordings(
        common=(
            "No rush.",
            "There's no hurry.",
            "It's not urgent.",
            "Low priority.",
            "Whenever is fine.",
            "It can wait.",
        ),
        held_out=("No hurry at all, it can wait.", "There is really no rush."),
    ),
}
SEARCH = Wordings(
    common=(
        "Find {mail} from {who}{when}.",
        "Show me {mail} from {who}{when}.",
        "Search for {mail} from {who}{when}.",
        "Do I have {mail} from {who}{when}?",
        "Look for {mail} sent by {who}{when}.",
        "Is there {mail} from {who}{when}?",
        "Can you pull up {mail} from {who}{when}?",
        "What {mail} did I get from {who}{when}?",
    ),
    held_out=(
        "Has {who} sent me {mail}{when}?",
        "Go through my inbox for {mail} by {who}{when}.",
        "From {who}, what {mail} came in{when}?",
    ),
)
MOVE = Wordings(
    common=(
        "Move everything from {who} to {folder}.",
        "Put {who}'s messages in {folder}.",
        "File the mail from {who} under {folder}.",
        "Move {who}'s emails to {folder}, please.",
        "Please file {who}'s messages under {folder}.",
        "Can you put the mail from {who} in {folder}?",
        "Everything from {who} belongs in {folder}.",
        "Please move all mail from {who} into {folder}.",
    ),
    held_out=(
        "I want {who}'s mail to go to {folder}.",
        "Under {folder}, please file what {who} sent.",
        "Clear out the messages from {who}, they belong in {folder}.",
    ),
)
FOLDERS: dict[str, tuple[str, ...]] = {
    "finance": ("the invoices folder", "the receipts folder", "billing", "expenses"),
    "people": ("the hiring folder", "HR", "the job applications folder", "the staff folder"),
    "clients": ("the customers folder", "the customer mail folder", "client work", "the customer folder"),
    "archive": ("the archive", "the old mail folder", "long-term storage"),
    "spam": ("junk", "the junk folder", "spam"),
}
SNOOZE = Wordings(
    common=(
        "Snooze the mail from {who} until {when}.",
        "Hide {who}'s messages until {when}.",
        "Remind me of {who}'s email on {when}.",
        "Snooze {who} until {when}.",
        "Bring {who}'s message back on {when}.",
        "Can you snooze {who}'s email until {when}?",
        "I'll deal with {who}'s mail on {when}, snooze it.",
        "Please hide everything from {who} until {when}.",
    ),
    held_out=(
        "I don't want to see {who}'s mail before {when}.",
        "Until {when}, keep the messages from {who} out of my inbox.",
        "Let {who}'s email come back on {when}.",
    ),
)
AWAY_ON = Wordings(
    common=(
        "I'm away until {when}, turn on my auto-reply.",
        "Turn on the out-of-office reply until {when}.",
        "Set my auto-reply until {when}.",
        "I'm on holiday until {when}, please set the auto-reply.",
        "Switch on my out-of-office until {when}.",
        "I'll be out until {when}. Auto-reply on, please.",
        "Please set me to away until {when}.",
        "Can you turn my auto-reply on until {when}?",
    ),
    held_out=(
        "Until {when} I'm not in the office, so set the auto-reply.",
        "My holiday lasts until {when}: out-of-office on, please.",
        "People who write to me before {when} should get my auto-reply.",
    ),
)
BOTH = Wordings(
    common=(
        "{first} And {second}",
        "{first} Also, {second}",
        "Two things. {first} Then {second}",
        "{first} After that, {second}",
    ),
    held_out=("First, {first2} Second, {second}", "{first} While you are at it, {second}"),
)

OFF_TOPIC = Wordings(
    common=(
        "What's the weather in {city} on {day}?",
        "Book a table in {city} for {day}.",
        "Find me a flight to {city}.",
        "Play some jazz, {first} likes it.",
        "Call {who} on the phone.",
        "How far is it to {city}?",
        "Order lunch for {who}.",
        "Translate this into the language they speak in {city}.",
        "What time is it in {city}?",
        "Print the contract for {who}.",
    ),
    held_out=(
        "I need a hotel in {city} for {day}.",
        "Could you ring {who} on the phone?",
        "Is it going to rain in {city}?",
    ),
)
SMALL_TALK = Wordings(
    common=(
        "Thanks, that's all for {day}!",
        "Hello, {first} here.",
        "Good morning! I'm {first}.",
        "How are you today? {first} here.",
        "Great, see you on {day}.",
        "You've been a great help. Best, {first}",
        "Who are you? I'm {first}.",
    ),
    held_out=("Nice to meet you, {first} is my name.", "That was everything, have a good {day}."),
)
NO_TOPIC = Wordings(
    common=(
        "Send an email to {who}.",
        "Write to {who} for me.",
        "I need to email {who}.",
        "Can you send {who} a message?",
        "Please write {who} an email.",
    ),
    held_out=("An email to {who}, please.", "Would you drop {who} a message?"),
)
NO_PERSON = Wordings(
    common=(
        "Send an email about {topic}.",
        "Send a reminder about {topic}.",
        "Write a message about {topic}.",
        "Can you send an update on {topic}?",
        "I need an email about {topic} to go out.",
    ),
    held_out=("An email on {topic}, please.", "Would you get a message out about {topic}?"),
)
NO_TIME = Wordings(
    common=(
        "Snooze {who}'s email.",
        "Hide the mail from {who} for a while.",
        "Can you snooze the messages from {who}?",
        "Snooze everything from {who}, please.",
        "Bring {who}'s message back later.",
    ),
    held_out=("I'd like {who}'s mail snoozed.", "Let {who}'s email come back some other time."),
)
NO_FOLDER = Wordings(
    common=(
        "Move the mail from {who}.",
        "File {who}'s messages somewhere else.",
        "Put {who}'s emails in another folder.",
        "Can you move {who}'s messages?",
        "Please file the mail from {who}.",
    ),
    held_out=("I want {who}'s mail moved.", "Find a place for what {who} sent."),
)

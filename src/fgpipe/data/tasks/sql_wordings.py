"""How questions to a database are put; `{things}` is a noun phrase such as `pending orders placed after 2024-03-01`."""

from __future__ import annotations

from fgpipe.data.tasks.rows import Wordings

LIST = Wordings(
    common=(
        "Show the {columns} of {things}.",
        "List the {columns} of all {things}.",
        "Give me the {columns} for {things}.",
        "Can you pull the {columns} for all {things}?",
        "I need the {columns} of {things}.",
        "What {be} the {columns} of {things}?",
        "Could I see the {columns} of {things}?",
        "Find all {things} and show me the {columns}.",
        "Get the {columns} of {things}, please.",
        "{columns} of {things}?",
        "From the {things}, pick out the {columns}.",
        "When it comes to {things}, what {be} the {columns}?",
        "Take the {things} and report the {columns}.",
        "For {things}, the {columns} please.",
        "Would you list the {columns} of the {things} for us?",
        "I'd love to see the {columns} of {things}.",
    ),
    held_out=(
        "For all {things} on file, tell me the {columns}.",
        "Go through the {things} and write out the {columns}.",
        "Of the {things}, I would like to see the {columns}.",
    ),
)
EVERYTHING = Wordings(
    common=(
        "Show me everything about {things}.",
        "List all details of {things}.",
        "Give me the full records of {things}.",
        "I need all columns for {things}.",
        "Can you show all details of {things}?",
        "Pull the full records for {things}.",
        "Print every column for {things}.",
        "I would like the complete records of {things}.",
        "For {things}, give me every field.",
        "Everything we have on {things}, please.",
    ),
    held_out=("For {things}, show me all the details.", "I'd like the full record of each of the {things}."),
)
LOOK_UP = Wordings(
    common=(
        "What is the {column} of {who}?",
        "What's the {column} for {who}?",
        "Look up the {column} of {who}.",
        "Can you find the {column} of {who}?",
        "Tell me the {column} of {who}.",
        "I need the {column} for {who}.",
        "Do we know the {column} of {who}?",
        "Which {column} is recorded for {who}?",
        "For {who}, what is the {column}?",
        "Please look at {who} and give me the {column}.",
        "Remind me of the {column} of {who}.",
        "Check the {column} of {who} for me.",
        "Could you look into {who} and report the {column}?",
    ),
    held_out=("Please check {who} and tell me the {column}.", "I forgot the {column} of {who}, can you look?"),
)
COUNT = Wordings(
    common=(
        "How many {things} are there?",
        "How many {things} do we have?",
        "Count the {things}.",
        "What is the number of {things}?",
        "Give me the number of {things}.",
        "I need a count of all {things}.",
        "Can you tell me how many {things} there are?",
        "Do you know how many {things} we have?",
        "Number of {things}, please.",
        "Show me how many {things} we have.",
        "Would you count the {things} for us?",
        "I want to know how many {things} we have.",
        "Please find out how many {things} there are.",
        "Work out the number of {things}.",
    ),
    held_out=(
        "Could you work out how many {things} we have on the books?",
        "Count up the {things} for me, would you?",
        "We need to know the number of {things}.",
    ),
)
AGGREGATE = Wordings(
    common=(
        "What is the {aggregate} {column} of {things}?",
        "Give me the {aggregate} {column} of all {things}.",
        "Show the {aggregate} {column} for {things}.",
        "Calculate the {aggregate} {column} of {things}.",
        "I need the {aggregate} {column} for {things}.",
        "Find the {aggregate} {column} among {things}.",
        "Can you work out the {aggregate} {column} of {things}?",
        "{aggregate} {column} of {things}?",
        "What's the {aggregate} {column} across all {things}?",
        "For {things}, what is the {aggregate} {column}?",
        "Take all {things} and compute the {aggregate} {column}.",
        "We want the {aggregate} {column} of {things}.",
        "Among {things}, find the {aggregate} {column}.",
    ),
    held_out=(
        "Looking only at {things}, what is the {aggregate} {column}?",
        "I was asked for the {aggregate} {column} of {things}.",
        "For the {things} we have, get me the {aggregate} {column}.",
    ),
)
GROUP_COUNT = Wordings(
    common=(
        "How many {things} are there per {group}?",
        "Count the {things} by {group}.",
        "Show the number of {things} for each {group}.",
        "Break down the {things} by {group}.",
        "How many {things} do we have in each {group}?",
        "Give me a count of {things} grouped by {group}.",
        "For each {group}, how many {things} are there?",
        "Number of {things} per {group}, please.",
        "Per {group}, show the number of {things}.",
        "Split the {things} by {group} and tell me how many there are.",
        "I'd like the number of {things} listed by {group}.",
    ),
    held_out=(
        "I want one line per {group} with the number of {things}.",
        "Group the {things} by {group} and count them.",
    ),
)
GROUP_AGGREGATE = Wordings(
    common=(
        "What is the {aggregate} {column} of {things} per {group}?",
        "Show the {aggregate} {column} of {things} for each {group}.",
        "Give me the {aggregate} {column} of {things} by {group}.",
        "For each {group}, what is the {aggregate} {column} of {things}?",
        "I need the {aggregate} {column} of {things} grouped by {group}.",
        "{aggregate} {column} of {things} per {group}?",
        "Can you break down the {aggregate} {column} of {things} by {group}?",
        "Per {group}, show the {aggregate} {column} of {things}.",
        "Split the {things} by {group} and compute the {aggregate} {column}.",
        "I'd like the {aggregate} {column} of {things} listed by {group}.",
    ),
    held_out=(
        "I want one line per {group} with the {aggregate} {column} of {things}.",
        "Group the {things} by {group} and work out the {aggregate} {column}.",
    ),
)
HAVING = Wordings(
    common=(
        "Which {groups} have {compare} {n} {things}?",
        "List the {groups} with {compare} {n} {things}.",
        "Show me all {groups} that have {compare} {n} {things}.",
        "Find the {groups} with {compare} {n} {things}.",
        "What {groups} have {compare} {n} {things}?",
        "I need the {groups} with {compare} {n} {things}.",
        "Name the {groups} with {compare} {n} {things}.",
        "Tell me the {groups} that have {compare} {n} {things}.",
        "We want all {groups} where there are {compare} {n} {things}.",
    ),
    held_out=(
        "In which {groups} do we have {compare} {n} {things}?",
        "Are there {groups} with {compare} {n} {things}? List them.",
    ),
)
TOP_BY = Wordings(
    common=(
        "Which {n} {things} have the {superlative}?",
        "What are the {n} {things} with the {superlative}?",
        "Show the {n} {things} with the {superlative}.",
        "List the {n} {things} with the {superlative}.",
        "Give me the {n} {things} with the {superlative}.",
        "Find the {n} {things} that have the {superlative}.",
        "I need the {n} {things} with the {superlative}.",
    ),
    held_out=(
        "Tell me which {n} {things} have the {superlative}.",
        "Can you name the {n} {things} that have the {superlative}?",
    ),
)
TOP_QUALITY = Wordings(
    common=(
        "Show the {n} {superlative} {things}.",
        "What are the {n} {superlative} {things}?",
        "List the {n} {superlative} {things}.",
        "Which are the {n} {superlative} {things}?",
        "Give me the {n} {superlative} {things}.",
        "Find the {n} {superlative} {things}, please.",
    ),
    held_out=("I'd like to know the {n} {superlative} {things}.", "Can you name our {n} {superlative} {things}?"),
)
BEST_BY = Wordings(
    common=(
        "Which {thing} has the {superlative}?",
        "Find the {thing} with the {superlative}.",
        "What is the {thing} with the {superlative}?",
        "Show me the {thing} with the {superlative}.",
        "Give me the {thing} that has the {superlative}.",
    ),
    held_out=("Can you name the {thing} with the {superlative}?", "Tell me which {thing} has the {superlative}."),
)
BEST_QUALITY = Wordings(
    common=(
        "Which is the {superlative} {thing}?",
        "What is the {superlative} {thing}?",
        "Find the {superlative} {thing}.",
        "Show me the {superlative} {thing}.",
        "Give me the {superlative} {thing}, please.",
    ),
    held_out=("I'd like to know the {superlative} {thing}.", "Can you name the {superlative} {thing}?"),
)
SORT = Wordings(
    common=(
        "List the {columns} of all {things}, sorted by {key}, {order} first.",
        "Show the {columns} of {things}, {order} {key} first.",
        "Give me the {columns} of {things} ordered by {key}, {order} first.",
        "I need the {columns} of {things}, sorted by {key} with the {order} first.",
        "Show the {columns} of all {things} by {key}, {order} first.",
        "Can you sort the {things} by {key}, {order} first, and show the {columns}?",
        "Sort the {things} by {key}, {order} first, and list the {columns}.",
        "Rank the {things} by {key}, {order} first, and give me the {columns}.",
        "We want the {columns} of {things} with the {order} {key} at the top.",
    ),
    held_out=(
        "Put the {things} in order of {key}, {order} first, and list the {columns}.",
        "I'd like the {columns} of {things}, starting with the {order} {key}.",
    ),
)
DISTINCT = Wordings(
    common=(
        "Which different {groups} are there for {things}?",
        "List the distinct {groups} of {things}.",
        "What {groups} are there among {things}?",
        "Show all different {groups} of {things}.",
        "Give me the {groups} of {things} without duplicates.",
        "I need a list of the distinct {groups} of all {things}.",
        "For {things}, which {groups} are there?",
        "Tell me all the {groups} that {things} have.",
        "Of all {things}, list the different {groups}.",
    ),
    held_out=("Among {things}, which different {groups} occur?", "Show each of the {groups} of {things} just once."),
)
COUNT_DISTINCT = Wordings(
    common=(
        "How many different {groups} do the {things} have?",
        "Count the distinct {groups} of {things}.",
        "How many distinct {groups} are there among {things}?",
        "What is the number of different {groups} of {things}?",
        "Give me the number of distinct {groups} of {things}.",
        "For {things}, count the different {groups}.",
        "Tell me how many different {groups} there are among {things}.",
        "Of all {things}, how many distinct {groups} are there?",
    ),
    held_out=(
        "Among {things}, how many different {groups} occur?",
        "I need to know how many distinct {groups} {things} have.",
    ),
)
NAME_BOTH = Wordings(
    common=(
        "Show the {columns} of each {child} together with the {label} of its {parent}.",
        "List the {columns} of all {children} and the {label} of the {parent}.",
        "Give me the {columns} of every {child} plus the {parent}'s {label}.",
        "For each {child}, show the {columns} and the {parent}'s {label}.",
        "I need the {columns} of all {children} with the {label} of their {parent}.",
        "Put together the {columns} of each {child} and the {label} of its {parent}.",
        "Report the {columns} of the {children} along with the {label} of the {parent}.",
        "For all {children}, print the {columns} and the {label} of the {parent}.",
    ),
    held_out=(
        "Next to the {columns} of each {child}, put the {label} of the {parent}.",
        "All {children}, please: the {columns} and who the {parent} is, by {label}.",
    ),
)
BOTH = Wordings(
    common=(
        "{first} And {second}",
        "{first} Also, {second}",
        "Two things. {first} And {second}",
        "{first} After that, {second}",
        "{first} Then {second}",
        "{first} And one more thing: {second}",
        "To start with, {first2} Then, {second}",
    ),
    held_out=("First, {first2} Second, {second}", "{first} While you are at it, {second}"),
)

WRITE = Wordings(
    common=(
        "Delete all {things}.",
        "Please remove the {things} from the table.",
        "Can you delete the {things}?",
        "Update the {column} of all {things}.",
        "Change the {column} of the {things} to {value}.",
        "Set the {column} to {value} for all {things}.",
        "Add a new {thing} with {column} {value}.",
        "Drop the {plural} table.",
        "Insert {n} new {plural}.",
    ),
    held_out=(
        "Get rid of the {things} for good, please delete them.",
        "Go ahead and change the {column} of {things} to {value}.",
        "Empty the {plural} table and delete every row.",
    ),
)
OFF_TOPIC = Wordings(
    common=(
        "What's the weather like in {city}?",
        "Book me a flight to {city}.",
        "Write a poem about {city}.",
        "Send an email to {name}.",
        "Call {name} for me.",
        "Remind me to ring {name}.",
        "Play some music from {country}.",
        "Translate this page for {name}.",
        "What is the capital of {country}?",
        "Who won the match in {city} last night?",
    ),
    held_out=(
        "Could you order a taxi in {city}?",
        "Tell me a joke about {country}.",
        "Would you send {name} an email?",
    ),
)
SMALL_TALK = Wordings(
    common=(
        "Thanks, {first}!",
        "Good morning, {first} here.",
        "Hello, I'm {first}. How are you?",
        "Great work, that's all for {day}.",
        "You're a star. See you on {day}!",
        "Hi, my name is {first}. What can you do?",
        "OK, that is everything for {day}, bye.",
    ),
    held_out=("Nice to meet you, I'm {first}.", "That's all, have a good {day}!"),
)
VAGUE = Wordings(
    common=(
        "Show me the {plural} that {first} mentioned.",
        "Which {thing} did {first} mean?",
        "Can I get the same {plural} as last time?",
        "Show me that {thing} again.",
        "What about the other {plural}?",
        "Do it again for {first}'s {plural}.",
    ),
    held_out=("The same {plural} as on {day}, please.", "Is it the {thing} {first} was talking about?"),
)

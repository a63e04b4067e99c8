"""The text that the demo pair is trained on: conversations written by a small grammar, all of it
made here.

A conversation is a list of (role, text). Stories follow one of a few plots; who acts, where, with
what, and in which words is drawn. Draws are uneven and depend on each other (a fox lives in the
forest, bread comes from the oven), as in real text, so that there is something to learn at every
distance: the next word, the sentence, the plot, and what was said in the question.

    PYTHONPATH=. python demo_corpus.py > pytest_gpubench/demo/data/corpus.txt     # stories that prompts can be made of
"""
# sentences stay whole

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence

from demo_corpus_words import (
    ANIMALS,
    BOYS,
    COLORS,
    FACTS,
    FAMILY,
    GIRLS,
    MORALS,
    PLACES,
    RECIPES,
    SEASONS,
    SIZES,
    SYSTEM,
    THINGS,
    TIMES,
    WEATHER,
)

from pytest_gpubench.load.prompts import WORDS

Turn = tuple[str, str]


class Writer:
    """Draws conversations; the same seed writes the same text."""

    def __init__(self, seed: str) -> None:
        self._rng = random.Random(seed)  # reproducible, not secret
        self._told: tuple[str, str, str] = (
            "",
            "",
            "",
        )  # kind, subject and animal of the last answer: the next question follows from it

    def conversation(self) -> list[Turn]:
        """One to four questions with their answers, sometimes after a system turn."""
        turns: list[Turn] = [("system", self._pick(SYSTEM))] if self._chance(0.15) else []
        kinds = (
            self._story,
            self._story,
            self._continued,
            self._continued,
            self._fact,
            self._how_to,
            self._scene,
            self._recall,
        )
        self._told = ("", "", "")
        for _ in range(self._rng.choices((1, 2, 3, 4), (2, 4, 3, 1))[0]):
            question, answer = (
                self._successor() if self._chance(0.8) else None
            ) or self._rng.choice(kinds)()
            turns += [("user", question), ("assistant", answer)]
        return turns

    def question(self) -> str:
        """What a user says first."""
        return next(text for role, text in self.conversation() if role == "user")

    def passage(self) -> str:
        """A story as it stands in a book."""
        return self._story()[1]

    def _successor(self) -> tuple[str, str] | None:
        """A question of the kind of the last one, about what comes next in our lists."""
        kind, subject, animal = self._told
        if kind == "fact":
            return self._fact(_next(list(FACTS), subject))
        if kind == "how":
            return self._how_to(_next(list(RECIPES), subject))
        if kind == "story":
            return self._story(_next(list(MORALS), subject), _next(list(ANIMALS), animal))
        return None

    def draw(self, options: Sequence[int]) -> int:
        """One of some numbers."""
        return self._rng.choice(options)

    # ------------------------------------------------------------------------------------------------------------
    # draws
    def _chance(self, share: float) -> bool:
        return self._rng.random() < share

    def _pick(self, options: Sequence[str], key: str = "") -> str:
        """Some are likelier; which ones, ``key`` decides: every name has its own way of telling,
        every thing its usual colour."""
        turn = zlib.crc32(f"{key}/{options[0]}".encode()) % len(options) if key else 0
        return self._rng.choices(
            [*options[turn:], *options[:turn]], [1 / (index + 0.7) for index in range(len(options))]
        )[0]

    def _any(self, options: Sequence[str]) -> str:
        return self._rng.choice(options)

    def _cast(self, animal: str = "") -> dict[str, str]:
        """Everything that a story may name."""
        girl = self._chance(0.5)
        name = self._any(GIRLS if girl else BOYS)
        other_girl = self._chance(0.5)
        other = self._any([each for each in (GIRLS if other_girl else BOYS) if each != name])
        animal = animal or self._any(list(ANIMALS))
        home, food, trait = ANIMALS[animal]
        thing = self._any(list(THINGS))
        material, use = THINGS[thing]
        place = home if home in PLACES and self._chance(0.6) else self._any(list(PLACES))
        return {
            "name": name, "he": "she" if girl else "he", "He": "She" if girl else "He", "him": "her" if girl else "him",
            "his": "her" if girl else "his", "His": "Her" if girl else "His", "kid": "girl" if girl else "boy",
            "other": other, "She": "She" if other_girl else "He", "she": "she" if other_girl else "he",
            "animal": animal, "an": _article(animal), "An": _article(animal).capitalize(), "home": home, "food": food, "trait": trait,
            "thing": thing, "material": material, "use": use, "color": self._pick(COLORS, thing), "size": self._pick(SIZES, name),
            "place": place, "sight": PLACES[place], "time": self._pick(TIMES, place), "kin": self._pick(FAMILY, name),
            "season": self._any(list(SEASONS)), "weather": self._any(list(WEATHER)),
        }  # fmt: skip

    def _say(self, cast: dict[str, str], *templates: str) -> str:
        return self._pick(templates, cast.get("name", cast.get("key", ""))).format_map(cast)

    # ----------------------------------------------------------------------------------------------------------
    # stories
    def _story(self, plot: str = "", animal: str = "") -> tuple[str, str]:
        cast = self._cast(animal)
        plot = plot or self._any(list(MORALS))
        self._told = ("story", plot, cast["animal"])
        beats = getattr(self, f"_plot_{plot}")(cast)
        story = [self._opening(cast, plot), *beats]
        if self._chance(0.35):
            story.insert(1, WEATHER[cast["weather"]])
        if self._chance(0.6):
            story.append(self._pick(MORALS[plot], cast["animal"]))
        return self._story_request(cast, plot), " ".join(story)

    def _story_request(self, cast: dict[str, str], plot: str) -> str:
        about = {
            "lost": "{name}, who lost {his} {thing}", "help": "{name} and {an} {animal}", "race": "a race between {an} {animal} and {name}",
            "build": "{name}, who wants to build a {thing}", "fear": "{name}, who is afraid of the {place}", "share": "{name}, who shares {his} food",
        }[plot]  # fmt: skip
        return self._say(
            cast,
            f"Tell me a story about {about}.",
            f"Write a short story about {about}.",
            f"Please tell me about {about}.",
            f"I want to hear a story about {about}. It happens near a {{place}}.",
            f"Can you write about {about}?",
        )

    def _opening(self, cast: dict[str, str], plot: str) -> str:
        if plot == "help" and self._chance(0.4):
            return self._say(
                cast,
                "Once there was a {trait} {animal} who lived in a {home}.",
                "In a {home} there lived a {trait} {animal}.",
            )
        return self._say(
            cast,
            "Once upon a time there was a {kid} named {name} who lived near a {place}.",
            "{name} was a {kid} who lived in a {size} house by the {place}.",
            "One {time} {name} went to the {place} with {his} {kin}.",
            "Long ago, in a {place} with {sight}, there lived a {kid} named {name}.",
            "It was {season}, and {name} was walking through the {place}.",
        )

    def _plot_lost(self, cast: dict[str, str]) -> list[str]:
        return [
            self._say(cast, "{He} had a {color} {thing} made of {material}.", "{His} {kin} had given {him} a {color} {thing} made of {material}."),
            self._say(cast, "{He} used it to {use} every {time}.", "{name} loved the {thing} more than anything."),
            self._say(cast, "But one {time} the {thing} was gone.", "Then, on a {weather} day, {he} lost the {thing}.", "One {time} {he} looked for the {thing} and could not find it."),
            self._say(cast, "{name} looked under the bed, behind the door and in the garden.", "{He} looked everywhere, but it was not there.", "{name} began to cry."),
            self._say(cast, "{An} {animal} saw {him} and asked: Why are you so sad?", "{other} came by and asked what was wrong."),
            self._say(cast, "I lost my {color} {thing}, said {name}.", "{name} told the whole story."),
            self._say(cast, "Together they went to the {place} and looked among the {sight}.", "They followed the path to the {place} and asked everyone."),
            self._say(cast, "There, under a {size} stone, lay the {color} {thing}.", "At last they found the {thing} near the {home}.", "The {thing} was hanging in a tree all the time."),
            self._say(cast, "{name} was so happy that {he} danced.", "{name} laughed and said thank you.", "From that day on {name} took good care of the {thing}."),
        ]  # fmt: skip

    def _plot_help(self, cast: dict[str, str]) -> list[str]:
        return [
            self._say(cast, "One {time} {name} heard a small voice near the {home}.", "One {weather} {time} {name} walked past the {home}."),
            self._say(cast, "It was {an} {animal} that was caught in a {size} net.", "{An} {animal} sat there with a thorn in its foot.", "It was {an} {animal} that had lost its way."),
            self._say(cast, "Please help me, said the {animal}.", "The {animal} was tired and hungry."),
            self._say(cast, "{name} was afraid at first, but {he} came closer.", "{name} did not wait a moment."),
            self._say(cast, "{He} gave it some {food} and a cup of water.", "{He} worked until the {animal} was free.", "{He} covered it with {his} {color} coat."),
            self._say(cast, "The {animal} thanked {him} and ran back to the {home}.", "I will not forget you, said the {animal}."),
            self._say(cast, "In the {season} {name} lost the way near the {place}.", "Some days later {name} fell into the water near the {place}.", "When {season} came, {name} was alone near the {place}."),
            self._say(cast, "Then the {trait} {animal} came and showed {him} the way home.", "The {animal} heard {him} and pulled {him} out.", "Suddenly the {animal} stood before {him} with a {color} {thing}."),
            self._say(cast, "Since that day {name} and the {animal} have been friends.", "They walked home together, and {his} {kin} made soup for both."),
        ]  # fmt: skip

    def _plot_race(self, cast: dict[str, str]) -> list[str]:
        return [
            self._say(cast, "A {trait} {animal} lived there too, and it liked to boast.", "{An} {animal} from the {home} laughed at {him}."),
            self._say(cast, "I am faster than you, said the {animal}.", "Nobody can run like me, said the {animal}."),
            self._say(cast, "Let us run to the {place} and back, said {name}.", "Then let us see who is first at the {place}, said {name}."),
            self._say(cast, "{other} counted to three, and they began.", "The whole village came to watch."),
            self._say(cast, "The {animal} was soon far ahead and stopped to eat some {food}.", "The {animal} ran so fast that it did not see the {size} stone.", "Halfway the {animal} lay down to sleep."),
            self._say(cast, "{name} went on, step by step, past the {sight}.", "{name} did not stop, even when it was hard."),
            self._say(cast, "When the {animal} looked up, {name} was already there.", "In the end {name} was first by a nose.", "But {name} turned around and helped the {animal} up."),
            self._say(cast, "{other} gave {him} a {color} {thing} as a prize.", "Everyone cheered and {other} rang a bell."),
            self._say(cast, "The {animal} was not so proud any more.", "They shared the {food} and laughed about it."),
        ]  # fmt: skip

    def _plot_build(self, cast: dict[str, str]) -> list[str]:
        return [
            self._say(cast, "{name} wanted to have a {color} {thing}, but {he} had no money.", "All the children had a {thing}, only {name} had none."),
            self._say(cast, "Then I will make one, {he} said.", "{His} {kin} said: Why do you not build one?"),
            self._say(cast, "{He} went to the {place} to find some {material}.", "{other} brought {him} {material} from the {place}."),
            self._say(cast, "First {he} drew a plan on a piece of paper.", "First {he} measured everything twice."),
            self._say(cast, "Then {he} cut the {material} and put the parts together.", "Then {other} held the parts while {name} worked."),
            self._say(cast, "It broke, and {name} was sad.", "The first one was too {size}.", "On the {weather} day it fell apart."),
            self._say(cast, "Try again, said {other}.", "{An} {animal} watched and shook its head.", "But {he} did not give up."),
            self._say(cast, "After three days the {thing} was ready, and it was {color} and beautiful.", "At last it worked, and {name} painted it {color}."),
            self._say(cast, "Now {he} could {use} as much as {he} liked.", "{His} {kin} was very proud of {him}.", "The next day {he} made one more for {other}."),
        ]  # fmt: skip

    def _plot_fear(self, cast: dict[str, str]) -> list[str]:
        return [
            self._say(cast, "{name} was afraid of the {place}, because it was dark there.", "People said that a {size} monster lived in the {place}."),
            self._say(cast, "Every {time} {he} heard a strange sound.", "At {time} a strange light was moving there."),
            self._say(cast, "One day {his} {kin} asked {him} to bring a {thing} from the {place}.", "One {weather} {time} {his} {color} {thing} flew into the {place}."),
            self._say(cast, "{name} took a lamp and went slowly, step by step.", "{name} held the hand of {other} and opened the gate."),
            self._say(cast, "{His} heart was beating fast.", "It was so quiet that {he} could hear {his} heart."),
            self._say(cast, "Who is there? asked {name}.", "Something moved between the {sight}."),
            self._say(cast, "It was only {an} {animal} that was looking for {food}.", "Out came {an} {animal}, and it was more afraid than {he} was."),
            self._say(cast, "{name} laughed and gave it some {food}.", "Do not be afraid, said {name} to the {animal}."),
            self._say(cast, "After that {name} went to the {place} every {time}.", "Now {name} knows that the {place} is full of friends."),
        ]  # fmt: skip

    def _plot_share(self, cast: dict[str, str]) -> list[str]:
        return [
            self._say(cast, "{His} {kin} gave {him} a {size} basket full of {food}.", "{name} had only a piece of bread and some {food}."),
            self._say(cast, "On the way {he} met {an} {animal}.", "At the {place} {an} {animal} was sitting in the grass."),
            self._say(cast, "I have not eaten for two days, said the {animal}.", "The {animal} looked at the {food} and said nothing."),
            self._say(cast, "Take half of it, said {name}.", "{name} thought about it for a moment and gave it the larger part."),
            self._say(cast, "A little later {other} came, and {she} was hungry too.", "Then {other} came along the road with an empty bag."),
            self._say(cast, "So they sat down under a tree and ate together.", "Again {name} shared what was left."),
            self._say(cast, "The {animal} sang a song, and {other} told a joke.", "The {animal} ran to the {home} and came back with a {color} {thing}."),
            self._say(cast, "When {name} came home, the basket was full again.", "In the evening {name} was still hungry, but {he} was happy."),
            self._say(cast, "{His} {kin} smiled and cooked soup for all of them.", "Nobody knows how that happened."),
        ]  # fmt: skip

    def _continued(self) -> tuple[str, str]:
        """A story up to some word, after other text or none; the answer goes on from there."""
        before: list[str] = []
        kind = self._rng.choice(("alone", "stories", "sentences"))
        if kind == "stories":
            before = [self.passage() for _ in range(self._rng.choice((1, 2)))]
        elif kind == "sentences":  # as a benchmark fills its prompts
            before = self._rng.choices(WORDS, k=4)
            for _ in range(self._rng.randrange(1, 5)):
                before += self._rng.sample(self.passage().split(". "), 3)
            before = [
                each if each in WORDS or each.endswith((".", "!", "?")) else f"{each}."
                for each in before
            ]
        words = self.passage().split(" ")
        cut = self._rng.randrange(4, len(words) - 3)
        asked = self._pick(
            [
                "",
                "Go on with this story.",
                "Here is a story. What happens next?",
                "Please finish this story.",
            ]
        )
        return " ".join([asked, *before, *words[:cut]]).strip(), " ".join(words[cut:])

    # ----------------------------------------------------------------------------------------------------
    # other answers
    def _fact(self, topic: str = "") -> tuple[str, str]:
        topic = topic or self._any(list(FACTS))
        self._told = ("fact", topic, "")
        first, *others = FACTS[topic]
        for _ in range(self._rng.choice((0, 0, 1))):
            others.pop(self._rng.randrange(len(others)))
        cast = {"topic": topic, "key": topic}
        question = self._say(
            cast,
            "What is {topic}?",
            "Please explain {topic} to me.",
            "Tell me about {topic}.",
            "What do you know about {topic}?",
        )
        start = self._pick(["", "That is a good question. ", "I will explain it. "], topic)
        return question, start + " ".join([first, *others]) + self._pick(
            ["", " Do you want to know more?"], topic
        )

    def _how_to(self, task: str = "") -> tuple[str, str]:
        task = task or self._any(list(RECIPES))
        self._told = ("how", task, "")
        one, two, three, four = RECIPES[task]
        question = self._say(
            {"task": task, "key": task},
            "How do I {task}?",
            "Can you tell me how to {task}?",
            "I want to {task}. What do I do?",
        )
        lead = self._say(
            {"task": task, "key": task},
            "It is easy to {task}.",
            "You can {task} in four steps.",
            "Let us {task} together.",
        )
        steps = f"First {one}. Then {two}. After that, {three}. Finally, {four}."
        return question, f"{lead} {steps} " + self._pick(
            ["Now you are done.", "That is all.", "Good luck!", "Enjoy it!"], task
        )

    def _scene(self) -> tuple[str, str]:
        cast = self._cast()
        self._told = ("", "", "")
        happened = SEASONS[cast["season"]]
        question = self._say(
            cast,
            "Describe a {weather} {time} at the {place}.",
            "What does the {place} look like in {season}?",
            "Describe the {place} in {season}.",
        )
        parts = [
            self._say(cast, "The {place} is full of {sight}.", "In {season} the {place} is a quiet place with {sight}."),
            WEATHER[cast["weather"]],
            self._say({**cast, "happened": happened}, "It was {season}, and {happened}.", "Everyone knew that it was {season}, because {happened}."),
            self._say(cast, "{An} {animal} was looking for {food}.", "A {kid} with a {color} {thing} was walking along the road.", "Near the {home} {an} {animal} was sleeping."),
            self._say(cast, "Far away somebody was singing.", "A {size} {thing} lay in the grass.", "It smelled of bread and wood."),
        ]  # fmt: skip
        return question, " ".join(parts)

    def _recall(self) -> tuple[str, str]:
        """Something is said, and asked for again."""
        cast, other = self._cast(), self._cast()
        self._told = ("", "", "")
        told = [
            self._say(
                cast,
                "{name} has a {color} {thing} made of {material}.",
                "The {color} {thing} belongs to {name}.",
            ),
            f"{cast['other']} lives near the {cast['place']} and likes the {other['animal']}.",
        ]
        asks = [
            ("What does {name} have?", "{name} has a {color} {thing}."),
            ("What color is the {thing}?", "The {thing} of {name} is {color}."),
            ("Where does {other} live?", "{other} lives near the {place}."),
            ("Who has a {thing}?", "It is {name} who has a {thing}."),
        ]
        question, answer = self._rng.choice(asks)
        self._rng.shuffle(told)
        more = self._say(cast, "", " I remember it well.", " Is there anything else?")
        return " ".join([*told, question.format_map(cast)]), answer.format_map(cast) + more


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _next(options: Sequence[str], one: str) -> str:
    return options[(options.index(one) + 1) % len(options)]


if __name__ == "__main__":
    author = Writer("corpus")
    for _ in range(300):
        print(author.passage())

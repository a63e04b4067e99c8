"""Names, things and sentences of the grammar in demo_corpus."""
# sentences stay whole

from __future__ import annotations

BOYS = ["Tom", "Ben", "Max", "Sam", "Leo", "Jack", "Omar", "Finn", "Hugo", "Peter", "Noah", "Carl"]
GIRLS = [
    "Anna",
    "Lily",
    "Mia",
    "Rosa",
    "Nora",
    "Ella",
    "Ivy",
    "Ruth",
    "Clara",
    "Maya",
    "Emma",
    "Jane",
]
# animal: home, food, what it is like
ANIMALS = {
    "dog": ("yard", "bones", "loyal"), "cat": ("kitchen", "fish", "proud"), "fox": ("forest", "berries", "clever"),
    "bear": ("cave", "honey", "strong"), "bird": ("tree", "seeds", "cheerful"), "horse": ("field", "grass", "fast"),
    "rabbit": ("garden", "carrots", "shy"), "mouse": ("barn", "cheese", "tiny"), "frog": ("pond", "flies", "funny"),
    "owl": ("tower", "mice", "wise"), "duck": ("river", "bread", "kind"), "goat": ("hill", "leaves", "stubborn"),
    "cow": ("meadow", "grass", "calm"), "wolf": ("mountain", "meat", "brave"), "turtle": ("beach", "plants", "slow"),
    "lion": ("desert", "meat", "proud"), "pig": ("farm", "apples", "happy"), "bee": ("flower", "nectar", "busy"),
    "whale": ("ocean", "fish", "gentle"), "sheep": ("hill", "grass", "quiet"),
}  # fmt: skip
# thing: what it is made of, what it is for
THINGS = {
    "ball": ("rubber", "play"), "boat": ("wood", "sail"), "book": ("paper", "read"), "kite": ("paper", "fly"),
    "hat": ("cloth", "wear"), "key": ("iron", "open the gate"), "lamp": ("glass", "see at night"), "drum": ("leather", "make music"),
    "bell": ("silver", "call everyone"), "map": ("paper", "find the way"), "coat": ("wool", "keep warm"),
    "basket": ("straw", "carry fruit"), "ring": ("gold", "wear"), "rope": ("cotton", "climb"), "clock": ("brass", "tell the time"),
    "cup": ("clay", "drink"), "box": ("wood", "keep secrets"), "wagon": ("wood", "carry stones"), "ladder": ("wood", "climb"),
    "blanket": ("wool", "sleep"), "violin": ("wood", "make music"), "mirror": ("glass", "look at the stars"),
}  # fmt: skip
COLORS = ["red", "blue", "green", "yellow", "white", "brown", "black", "golden", "purple", "gray"]
SIZES = [
    "little",
    "big",
    "small",
    "round",
    "new",
    "tiny",
    "beautiful",
    "strange",
    "heavy",
    "broken",
]
PLACES = {
    "forest": "tall trees", "garden": "bright flowers", "village": "narrow streets", "river": "clear water", "hill": "soft grass",
    "beach": "warm sand", "market": "loud voices", "mountain": "deep snow", "lake": "silver fish", "farm": "fat hens",
    "city": "busy people", "castle": "stone walls", "school": "happy children", "meadow": "wild flowers", "harbor": "white ships",
    "library": "dusty shelves", "bay": "round shells", "valley": "quiet roads",
}  # fmt: skip
WEATHER = {
    "sunny": "The sun was shining and the sky was blue.", "rainy": "The rain fell softly on the roof.",
    "windy": "The wind blew hard and the leaves danced.", "cold": "The air was cold and snow covered the ground.",
    "warm": "The air was warm and bees hummed in the grass.", "foggy": "The fog was thick and nobody could see far.",
    "stormy": "Dark clouds came and thunder rolled over the land.",
}  # fmt: skip
TIMES = ["morning", "evening", "day", "afternoon", "night"]
SEASONS = {
    "spring": "the first flowers opened",
    "summer": "the days were long",
    "autumn": "the leaves turned red",
    "winter": "the snow fell",
}
FAMILY = [
    "mother",
    "father",
    "sister",
    "brother",
    "grandmother",
    "grandfather",
    "uncle",
    "aunt",
    "friend",
    "teacher",
    "neighbor",
]
MORALS = {
    "lost": ["It is good to ask for help.", "Those who keep looking will find.", "A friend is worth more than a treasure."],
    "help": ["Even the smallest can help the largest.", "Kindness always comes back.", "Nobody is too small to be brave."],
    "race": ["Slow and steady wins the day.", "It is more fun to run together.", "Pride comes before a fall."],
    "build": ["Many hands make light work.", "Good things take time.", "If it breaks, you can build it again."],
    "fear": ["What we fear is often small.", "It is fine to be afraid.", "Courage grows when we use it."],
    "share": ["Food tastes better with friends.", "Who shares will never be alone.", "A full heart is better than a full plate."],
}  # fmt: skip

FACTS = {
    "rain": ["Rain is water that falls from the clouds.", "The sun warms the sea, and the water rises as steam.", "High in the cold air the steam turns into small drops.", "When the drops are heavy, they fall to the ground."],
    "a bridge": ["A bridge is a road over a river or a valley.", "It is made of stone, wood or steel.", "Strong arches carry the weight to the ground.", "Without bridges people would need boats."],
    "the moon": ["The moon is a ball of rock that circles the earth.", "It has no light of its own.", "It shines because the sun shines on it.", "It takes about a month to go around us."],
    "bread": ["Bread is food made from flour, water and salt.", "Yeast makes the dough rise.", "The baker puts it into a hot oven.", "Fresh bread smells good and tastes even better."],
    "a clock": ["A clock is a machine that tells the time.", "Small wheels turn the hands.", "The short hand shows the hour and the long hand shows the minute.", "Old clocks must be wound every day."],
    "snow": ["Snow is frozen water that falls from the clouds.", "Every flake has six sides.", "It covers the ground like a white blanket.", "When the air gets warm, the snow melts."],
    "a tree": ["A tree is a tall plant with a trunk of wood.", "Its roots drink water from the soil.", "Its leaves catch the light of the sun.", "Birds build their nests in its branches."],
    "the sea": ["The sea is a very large body of salt water.", "It covers most of the earth.", "Fish, whales and plants live in it.", "The moon pulls the water and makes the tides."],
    "a school": ["A school is a place where children learn.", "A teacher shows them how to read and count.", "They sit at tables and write in books.", "After the lessons they play outside."],
    "the wind": ["Wind is air that moves.", "It blows when warm air rises and cold air takes its place.", "It fills the sails of ships and turns mills.", "A strong wind can become a storm."],
    "a river": ["A river is water that flows through the land.", "It begins as a small spring in the hills.", "It grows when other streams join it.", "In the end it reaches the sea."],
    "fire": ["Fire is heat and light that come from burning wood.", "It needs air to burn.", "It warms the house and cooks the food.", "Never leave a fire alone."],
    "honey": ["Honey is sweet food made by bees.", "They fly from flower to flower and gather nectar.", "They keep it in small cells of wax.", "Bears and children like it very much."],
    "a letter": ["A letter is a message written on paper.", "You put it into an envelope and write the address.", "A postman carries it to the door.", "A good letter makes the reader smile."],
    "a star": ["A star is a very large ball of hot gas.", "It is so far away that it looks tiny.", "The sun is the star that is nearest to us.", "Sailors once used the stars to find the way."],
    "music": ["Music is sound that people make for joy.", "Some sing and some play the drum or the violin.", "A melody goes up and down like a path over hills.", "Good music makes people dance."],
    "an engine": ["An engine is a machine that makes things move.", "It burns fuel or uses electric power.", "It turns the wheels of a car or a train.", "A good engine is quiet and strong."],
    "a test": ["A test is a question whose answer we know.", "It tells us whether a machine works.", "If the test fails, we look for the reason.", "A test that cannot fail tells us nothing."],
}  # fmt: skip

RECIPES = {
    "bake bread": ["mix flour, water and salt", "wait until the dough rises", "form a round loaf", "put it into the hot oven"],
    "plant a tree": ["dig a deep hole", "set the young tree into it", "fill the hole with soil", "give it plenty of water"],
    "build a kite": ["cut two thin sticks", "tie them into a cross", "cover them with paper", "fasten a long string"],
    "make soup": ["wash the carrots and the onions", "cut them into small pieces", "boil them in water with salt", "taste it and add some pepper"],
    "draw a cat": ["draw a big circle for the body", "draw a small circle for the head", "add two ears and a tail", "give it eyes and a smile"],
    "wash a dog": ["fill a tub with warm water", "rub soap into the fur", "rinse it with clean water", "dry it with a soft towel"],
    "make tea": ["boil some water", "put the leaves into a cup", "pour the water over them", "wait three minutes"],
    "write a letter": ["take a clean sheet of paper", "write the name of your friend", "tell what happened this week", "put it into an envelope"],
    "clean a room": ["open the window", "pick up the toys", "wipe the dust from the shelves", "sweep the floor"],
    "light a fire": ["gather dry wood", "build a small tower of sticks", "put straw under it", "light the straw with a match"],
    "measure a server": ["start the engine and wait", "send some requests to warm it up", "send many requests and write down the times", "stop the engine and compare the numbers"],
}  # fmt: skip

SYSTEM = [
    "You are a kind teller of stories.",
    "You are a helpful friend. Answer with short sentences.",
    "You write for children.",
    "Be brief and clear.",
]

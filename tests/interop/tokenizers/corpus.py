"""A few paragraphs, written for this project, to train tiny tokenizers on."""

CORPUS = [
    "A small tokenizer learns from a small text. It counts which letters stand together, joins the pair that is seen most often, and begins again. "
    "After a few hundred rounds it knows the common words, the common endings and a few that it will never need.",
    "The cat sat by the window and watched the rain. It didn't mind the weather; it had a warm chair, and there's nothing better than a warm chair. "
    "When the rain stopped, the cat went out, came back, and wasn't sure which of the two it had liked more.",
    "Quantization replaces each weight of a matrix by one of a few levels. Fewer levels make a smaller file and a larger error, and the whole art is in where the error goes. "
    "With 2, 3 or 4 bits a weight, a model of 7,000 million weights fits where it didn't fit before.",
    "def add(first, second):\n    # Adds two numbers.\n    total = first + second\n    return total\n\nfor i in range(10):\n    print(add(i, i + 1))\n",
    "Une phrase en fran\u00e7ais, d\u00e9j\u00e0 vue, o\u00f9 l'\u00e9t\u00e9 revient. Ein deutscher Satz \u00fcber gro\u00dfe W\u00f6rter und \u00c4pfel. "
    "\u041f\u0440\u043e\u0441\u0442\u043e\u0435 \u043f\u0440\u0435\u0434\u043b\u043e\u0436\u0435\u043d\u0438\u0435 \u043f\u043e-\u0440\u0443\u0441\u0441\u043a\u0438. \u77ed\u3044\u6587\u3067\u3059\u3002\u77ed\u53e5\u5b50\u3002",
    "The years 1999, 2004 and 2023 had 365, 366 and 365 days. We'll see; they've said it, I'm sure, and you'd agree. "
    "WE'LL SEE THE SAME IN CAPITALS, THAT'S CERTAIN.\r\n\r\n  Two spaces,\tone tab,   three spaces.",
    "What is the best of the rest? The nest in the west, the test of the guest, the quest for the crest: all of these end alike, and the trainer notices.",
] * 4

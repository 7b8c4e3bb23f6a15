/** Texts to begin with. */

export interface TextSet {
  name: string;
  texts: string[];
}

export const TEXT_SETS: TextSet[] = [
  {
    name: "Everyday",
    texts: [
      "A cat sits on the mat.",
      "The kitten sleeps on the carpet.",
      "A dog barks at the postman.",
      "Dogs love long walks in the park.",
      "The stock market fell sharply today.",
      "Shares lost value after the report.",
      "Investors are worried about inflation.",
      "Bake the bread for forty minutes.",
      "Let the dough rest before baking.",
      "Season the soup with salt and pepper.",
    ],
  },
  {
    name: "Support tickets",
    texts: [
      "I forgot my password and cannot log in.",
      "The login page says my account is locked.",
      "How do I reset two-factor authentication?",
      "My invoice shows the wrong amount.",
      "I was charged twice this month.",
      "Can I get a refund for last month?",
      "The app crashes when I open a photo.",
      "Uploading pictures makes the program freeze.",
      "Please add a dark mode.",
      "It would be great to have keyboard shortcuts.",
    ],
  },
  {
    name: "Languages",
    texts: [
      "The weather is lovely today.",
      "Das Wetter ist heute herrlich.",
      "Il fait très beau aujourd'hui.",
      "Where is the nearest train station?",
      "Wo ist der nächste Bahnhof?",
      "Où est la gare la plus proche ?",
      "I would like a cup of coffee, please.",
      "Ich hätte gern eine Tasse Kaffee.",
      "Je voudrais une tasse de café.",
    ],
  },
];

export interface SearchSet {
  name: string;
  query: string;
  documents: string[];
}

export const SEARCH_SETS: SearchSet[] = [
  {
    name: "Product help",
    query: "How can I get my money back?",
    documents: [
      "Refunds are paid to the original payment method within five days.",
      "Open Settings, then Security, to change your password.",
      "You can return unused items within thirty days of delivery.",
      "Our office is open from Monday to Friday.",
      "A cancelled subscription ends with the current month; the rest is reimbursed.",
      "Money can be transferred between accounts in the app.",
      "To update the app, visit the store on your device.",
      "Back up your data before you reset the device.",
    ],
  },
  {
    name: "Science",
    query: "Why is the sky blue?",
    documents: [
      "Air molecules scatter short wavelengths of sunlight more strongly than long ones.",
      "The sky at night shows thousands of stars.",
      "Blue paint was once made from a precious stone.",
      "At sunset light travels further through the air, and the blue part is scattered away.",
      "The sea reflects the colour of the sky above it.",
      "Whales sing songs that travel for hundreds of kilometres.",
      "Rayleigh scattering depends on the fourth power of the frequency.",
      "Clouds look white because their droplets scatter all colours alike.",
    ],
  },
];

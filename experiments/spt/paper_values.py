"""The values that the SPT paper prints, for comparison with ours."""

from experiments.spt.defences import Training

Printed = tuple[float, float, float]  # CS, OS, DR

NETWORKS = ("VGG", "LeNet", "ResNet", "C4", "GoogLeNet", "C4_WO_BN")
TRAININGS: tuple[Training, ...] = ("Ts", "T-", "Td")

# Table II: rows are the networks that classify, columns those that were attacked.
ORIGINAL_ACCURACY = {
    "VGG": 0.9376, "LeNet": 0.7417, "ResNet": 0.9548, "C4": 0.8812, "GoogLeNet": 0.9531,
    "C4_WO_BN": 0.8461,
}  # fmt: skip
UNTARGETED_ACCURACY = {
    "VGG": (0.2575, 0.8718, 0.7637, 0.7565, 0.8372, 0.7000),
    "LeNet": (0.7177, 0.0848, 0.7195, 0.6753, 0.7226, 0.5121),
    "ResNet": (0.7723, 0.8937, 0.1578, 0.7487, 0.7505, 0.7058),
    "C4": (0.7561, 0.7252, 0.7331, 0.0014, 0.7646, 0.3621),
    "GoogLeNet": (0.8081, 0.8953, 0.6587, 0.7194, 0.0903, 0.7250),
    "C4_WO_BN": (0.7885, 0.6165, 0.7879, 0.6312, 0.8021, 0.0476),
}
TARGETED_SUCCESS = {  # the paper prints "0.0.0992" for .0992
    "VGG": (0.2835, 0.1268, 0.1830, 0.1822, 0.1307, 0.3375),
    "LeNet": (0.1012, 0.9198, 0.0992, 0.1134, 0.1005, 0.2069),
    "ResNet": (0.1515, 0.1199, 0.5967, 0.2010, 0.1955, 0.3620),
    "C4": (0.1188, 0.1485, 0.1534, 1.0, 0.1246, 0.5859),
    "GoogLeNet": (0.1264, 0.1144, 0.2440, 0.2133, 0.6859, 0.2896),
    "C4_WO_BN": (0.1141, 0.2239, 0.1242, 0.1780, 0.1124, 0.9909),
}

# Table IV: network -> (Adv, then C2 = C4: Ts, T-, Td, then C2 = LeNet: Ts, T-, Td).
UNTARGETED_TRANSFER = {
    "VGG": (0.2567, 0.427, 0.4702, 0.5011, 0.4477, 0.4703, 0.4835),
    "LeNet": (0.7188, 0.7049, 0.7248, 0.7318, 0.4272, 0.7250, 0.7389),
    "ResNet": (0.7934, 0.7576, 0.8562, 0.8657, 0.8273, 0.8543, 0.8602),
    "C4": (0.7589, 0.1598, 0.8045, 0.8195, 0.7563, 0.8046, 0.8095),
    "GoogLeNet": (0.8224, 0.7731, 0.8713, 0.8785, 0.8478, 0.8711, 0.8734),
}
TARGETED_TRANSFER = {
    "VGG": (0.2171, 0.1887, 0.1756, 0.1787, 0.1797, 0.1760, 0.1773),
    "LeNet": (0.1012, 0.1054, 0.1013, 0.1024, 0.1859, 0.1019, 0.1000),
    "ResNet": (0.1231, 0.1291, 0.1150, 0.1156, 0.1186, 0.1158, 0.1159),
    "C4": (0.1116, 0.4211, 0.1089, 0.1049, 0.1137, 0.1054, 0.1035),
    "GoogLeNet": (0.1115, 0.1242, 0.1070, 0.1069, 0.1115, 0.1076, 0.1072),
}
DECOYS = ("C4", "LeNet")  # in the order of tables IV to VI

# Tables V and VI: decoy -> training -> (CS, OS, DR). Two values are misprints: V's CS of T- with C4
# (.1987 would give its DR), and VI's DR of JSMA with LeNet-Ts (.476 by eq. 3).
UNTARGETED_BUFFER = {
    "C4": {"Ts": (0.3713, 0.4543, 0.1827), "T-": (0.190, 0.4752, 0.5818),
           "Td": (0.2017, 0.5029, 0.5989)},
    "LeNet": {"Ts": (0.4290, 0.4481, 0.0426), "T-": (0.2282, 0.4698, 0.5143),
              "Td": (0.2198, 0.4846, 0.5464)},
}  # fmt: skip
UNTARGETED_ADV = 0.2567
JSMA_BUFFER = {
    "C4": {"Ts": (0.85, 0.74, 0.15), "T-": (0.96, 0.59, 0.63), "Td": (0.81, 0.51, 0.59)},
    "LeNet": {"Ts": (0.93, 0.63, 0.46), "T-": (0.31, 0.59, 0.48), "Td": (0.87, 0.56, 0.55)},
}
JSMA_ADV = 0.93
MIFGSM_BUFFER = {
    "C4": {"Ts": (0.69, 0.24, 1.88), "T-": (0.68, 0.23, 1.96), "Td": (0.69, 0.23, 2.00)},
    "LeNet": {"Ts": (0.48, 0.24, 1.00), "T-": (0.10, 0.23, 0.58), "Td": (0.50, 0.23, 1.17)},
}
MIFGSM_ADV = 0.33

# Table VII: (steps, t, step size) -> (Adv, training -> (CS, OS, DR)).
HYPERPARAMETERS: dict[tuple[int, int, float], tuple[float, dict[str, Printed]]] = {
    (40, 10, 3e-3): (0.6746, {k: (0.6746, 0.6746, 0.0) for k in TRAININGS}),
    (40, 10, 3e-4): (0.1938, {"Ts": (0.2970, 0.1768, 0.6799), "T-": (0.4357, 0.1754, 1.4840),
                              "Td": (0.3500, 0.1668, 1.0983)}),
    (100, 10, 3e-4): (0.3117, {"Ts": (0.6922, 0.2418, 1.8627), "T-": (0.6873, 0.2300, 1.9883),
                               "Td": (0.6910, 0.2256, 2.0629)}),
    (100, 30, 3e-4): (0.3126, {"Ts": (0.8583, 0.2097, 3.0930), "T-": (0.8813, 0.1963, 3.4900),
                               "Td": (0.8643, 0.1953, 3.4255)}),
}  # fmt: skip

# Table VIII: (defence, filter) -> column -> value. Columns without a value are left out.
COMPARISON = {
    ("ORI", "none"): {"accuracy": 0.9376, "attack_rate": 0.7064, "accuracy_attacked": 0.2234},
    ("ORI", "median"): {"accuracy": 0.8162, "accuracy_attacked": 0.7190},
    ("ORI", "JPEG"): {"accuracy": 0.8674, "accuracy_attacked": 0.7945},
    ("Adver-Train", "none"): {"accuracy": 0.8845, "attack_rate": 0.5735,
                              "accuracy_attacked": 0.3410},
    ("Adver-Train", "median"): {"accuracy": 0.7867, "accuracy_attacked": 0.4794},
    ("Adver-Train", "JPEG"): {"accuracy": 0.8711, "accuracy_attacked": 0.4372},
    ("Ours", "none"): {"accuracy": 0.9376, "attack_rate": 0.5187, "accuracy_attacked": 0.3295,
                       "deceive_rate": 0.93},
}  # fmt: skip

# Tables X and XI: system -> (VGG, C4): the share classified as the target, over all images.
INTERLEAVED = {
    "clean": (0.1030, 0.1037),
    "none, CUT": (0.7064, 0.1513),
    "none": (0.7945, 0.1688),
}
CHAINS = {
    "chain": (0.2272, 1.0),
    "chain 25 dB, CUT": (0.2599, 1.0),
    "chain 30 dB, CUT": (0.7922, 0.3540),
}
FLAGS = {"and, CUT": (0.3602, 0.9840), "or, CUT": (0.7819, 0.7051)}

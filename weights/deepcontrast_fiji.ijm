// DeepContrast in Fiji: run the model with deepImageJ and turn the dial.
//
// Interactive: install the package with deepImageJ, open an image, drag this file onto the Fiji
// window, press Run. Headless, for one image or all images of a folder:
//
//   fiji --headless -macro deepcontrast_fiji.ijm "model=[FOLDER] input=[IMAGE] output=[RESULT.tif] dial=1.7"
//
// model=     folder of the unpacked package, or its name below Fiji's folder `models`
// input=     an image, or a folder of images; the current image if left out
// output=    the result, or the folder of results; left out, the result is shown
// dial=      optical depth to remove: 0 is the raw image, one iteration removes one step; fractions
//            lie in between; `all` gives every iteration as a channel (image of one channel)
// enhanced=  a result with all iterations, made before: the model is not run again
// step=      optical depth of one iteration; only needed with enhanced= and no model=
//
// ImageJ ends with exit code 0 even if a macro failed. Without a screen a failure is therefore
// written as a line that begins with "DCBMZ ERROR:" to standard output and standard error (on
// Windows only the first), and in any case to a file: the name of output= with .txt behind it.
//
// Z and T are taken plane by plane, channels one after the other. The result is 32-bit, in the grey
// values of the input, with its pixel size, units and frame interval.

// deepImageJ does not come back from planes that have more pixels than this, border included.
var LARGEST_PLANE = 4096 * 4096 * 3;

// How the line begins that a failure leaves.
var FAILED = "DCBMZ ERROR: ";

// Temporary folder of the image that deepImageJ works on; empty where there is none.
var work = "";

// Where the result goes, known to `refuse` before anything else is read.
var output = "";

arguments = String.trim(getArgument());
if (arguments == "")
    arguments = ask();
output = slashes(option(arguments, "output", ""));
forgetFailure();
model = folderOfModel(option(arguments, "model", ""));
input = slashes(option(arguments, "input", ""));
dial = option(arguments, "dial", "1");
ready = slashes(option(arguments, "enhanced", ""));
if (model == "" && ready == "")
    refuse("No model is named: give model= (folder of the package), or enhanced= (a result with all iterations).");
description = "";
if (model != "")
    description = File.openAsString(model + "/rdf.yaml");
step = parseFloat(option(arguments, "step", value(description, "step_optical_depth")));
if (dial != "all" && (isNaN(step) || step <= 0))
    refuse("The optical depth of one iteration is not known: give step=, which is 1 for most models.");
if (input == "" && nImages == 0)
    refuse("There is no image: open one, or give input=.");
if (output == "" && headless())
    refuse("The result cannot be shown without a screen: give output=.");

setBatchMode(true);
if (input == "") {
    finish(enhance(getImageID()), output);
} else if (File.isDirectory(input)) {
    if (ready != "")
        refuse("enhanced= belongs to one image, but input= is a folder: leave enhanced= away, or give one image as input=.");
    if (output == "" || output == input)
        refuse("output= is missing, or is the folder of the images itself: give another folder as output=.");
    if (!File.isDirectory(output))
        File.makeDirectory(output);
    done = 0;
    names = getFileList(input);
    for (n = 0; n < names.length; n++) {
        if (isImage(names[n])) {
            open(input + "/" + names[n]);
            opened = getImageID();
            name = stem(names[n]);
            finish(enhance(opened), output + "/" + name + "_dial_" + dial + ".tif");
            selectImage(opened);
            close();
            done++;
        }
    }
    if (done == 0)
        refuse("The folder " + input + " has no image that ends in .tif, .tiff, .png, .bmp, .pgm or .dcm: name another.");
    print(done + " images enhanced");
} else if (File.exists(input)) {
    open(input);
    finish(enhance(getImageID()), output);
} else {
    refuse("The image " + input + " does not exist: correct input=.");
}
if (output == "")
    setBatchMode("exit and display");

// ------------------------------------------------------------------------------ arithmetic

// Returns k and alpha: the dial lies between iterations k and k + 1, at weight alpha.
function dialPosition(text, step, iterations) {
    if (text == "all")
        return newArray(0, 0);
    dial = parseFloat(text);
    largest = iterations * step;
    if (isNaN(dial) || dial < 0 || dial > largest * (1 + 1e-9))
        refuse("The dial " + text + " is neither between 0 and " + largest + " (" + iterations + " iterations of " + step + ") nor all: choose a value in between.");
    whole = minOf(floor(dial / step + 1e-9), iterations);
    rest = maxOf(dial - whole * step, 0);
    if (whole == iterations || rest <= 1e-9 * step)
        return newArray(whole, 0);
    return newArray(whole, (exp(rest) - 1) / (exp(step) - 1));
}

// Turns plane `slice` of `image`, which holds the raw values, into x_k + alpha (x_(k+1) - x_k).
// `first` is the slice of iteration 1 in `iterations`; `factor` is a plane full of alpha.
function blend(image, slice, iterations, first, k, alpha, factor) {
    if (k > 0) {
        show(iterations, first + k - 1);
        show(image, slice);
        imageCalculator("Copy", image, iterations);
    }
    if (alpha > 0) {
        show(iterations, first + k);
        show(image, slice);
        imageCalculator("Subtract create 32-bit", iterations, image);
        difference = getImageID();
        imageCalculator("Multiply", difference, factor);
        imageCalculator("Add", image, difference);
        selectImage(difference);
        close();
    }
}

function show(image, slice) {
    selectImage(image);
    if (nSlices > 1)
        setSlice(slice);
}

// ----------------------------------------------------------------------------- one image

// Returns the enhanced copy of an image, which stays as it is.
function enhance(source) {
    selectImage(source);
    title = getTitle();
    info = getMetadata("Info");
    if (bitDepth() == 24)
        refuse("The image " + title + " is RGB: give grey values, with Image > Color > Make Composite or Image > Type > 32-bit.");
    getDimensions(width, height, channels, slices, frames);
    halo = parseFloat(value(description, "halo_px"));
    if (isNaN(halo))
        halo = 0;
    if (ready == "" && (width + 2 * halo) * (height + 2 * halo) > LARGEST_PLANE)
        refuse("The image " + title + " is " + width + " x " + height + " pixels, and deepImageJ does not come back from planes above 50 megapixels: cut it into parts.");
    if (dial == "all" && channels > 1)
        refuse("The image " + title + " has " + channels + " channels, and the iterations of only one can be the channels of a result: split it with Image > Color > Split Channels, or give a number as dial=.");
    names = channelNames(description);
    if (model != "" && names.length == 0)
        refuse("The package " + model + " was not made by dcbmz export: give one that was as model=.");
    if (ready == "")
        position = dialPosition(dial, step, names.length);
    // A copy in 32 bits, with calibration, labels and colours, by a function that needs no dialog.
    imageCalculator("Max create 32-bit stack", source, source);
    result = getImageID();
    told = "DeepContrast, dial " + dial;
    if (!isNaN(step))
        told = told + ", step " + step;
    setMetadata("Info", told + "\n" + info);
    label = "";
    if (nSlices == 1) {
        selectImage(source);
        label = Property.getSliceLabel;
        // Of a plane without a label, ImageJ returns title and info.
        if (indexOf(label, "\n") >= 0)
            label = "";
        selectImage(result);
    }
    planes = slices * frames;
    factor = 0;
    for (channel = 1; channel <= channels; channel++) {
        enhanced = allIterations(result, channel, channels, slices, frames);
        selectImage(enhanced);
        getDimensions(w, h, count, z, t);
        if (ready != "")
            names = iterationNames(count);
        count = names.length;
        if (nSlices != count * planes || w != width || h != height)
            refuse("The iterations are " + w + " x " + h + " pixels in " + nSlices + " planes, but " + title + " is " + width + " x " + height + " in " + planes + ": give the right image as enhanced=, or report it.");
        if (dial == "all") {
            gathered = gather(result, enhanced, names, slices, frames);
            selectImage(result);
            close();
            result = gathered;
        } else {
            position = dialPosition(dial, step, names.length);
            if (factor == 0) {
                newImage("alpha", "32-bit black", width, height, 1);
                factor = getImageID();
                changeValues(0, 0, position[1]);
            }
            for (p = 0; p < planes; p++)
                blend(result, p * channels + channel, enhanced, p * count + 1, position[0], position[1], factor);
        }
        selectImage(enhanced);
        close();
    }
    if (factor != 0) {
        selectImage(factor);
        close();
    }
    if (dial != "all")
        nameSlices(result, label);
    resetDisplay(result);
    selectImage(result);
    name = stem(title);
    rename(name + "_dial_" + dial);
    return result;
}

// Returns an image with all that the model makes of one channel, for every plane in turn.
function allIterations(image, channel, channels, slices, frames) {
    if (ready != "") {
        if (channels > 1)
            refuse("The image has " + channels + " channels, and enhanced= belongs to one: split it with Image > Color > Split Channels.");
        if (!File.exists(ready))
            refuse("The iterations " + ready + " do not exist: correct enhanced=.");
        open(ready);
        if (bitDepth() != 32)
            run("32-bit");
        return getImageID();
    }
    planes = slices * frames;
    selectImage(image);
    newImage("planes", "32-bit black", getWidth(), getHeight(), planes);
    part = getImageID();
    for (p = 0; p < planes; p++) {
        show(image, p * channels + channel);
        show(part, p + 1);
        imageCalculator("Copy", part, image);
    }
    // A 2-D model takes planes as frames; with both z and t it would see the first z only.
    selectImage(part);
    dims = value(description, "dims");
    if (planes > 1) {
        if (dims == "3")
            Stack.setDimensions(1, slices, frames);
        else
            Stack.setDimensions(1, 1, planes);
    }
    List.setCommands;
    if (List.size > 0 && List.get("DeepImageJ Run") == "")
        refuse("deepImageJ is not installed: tick DeepImageJ in Help > Update... > Manage update sites, and restart Fiji.");
    work = slashes(getDirectory("temp"));
    work = work + "/deepcontrast_" + d2s(getTime(), 0);
    File.makeDirectory(work);
    File.makeDirectory(work + "/out");
    saveAs("Tiff", work + "/planes.tif");
    close();
    // The second spelling of each key is that of deepImageJ before July 2025.
    files = "input_path=[" + work + "/planes.tif] inputPath=[" + work + "/planes.tif] ";
    files = files + "output_folder=[" + work + "/out] outputFolder=[" + work + "/out]";
    // ImageJ prints what deepImageJ throws, and goes on.
    run("DeepImageJ Run", "model_path=[" + model + "] modelPath=[" + model + "] " + files);
    written = getFileList(work + "/out");
    if (written.length != 1)
        refuse("deepImageJ gave no result: look at its message above or in Window > Console; it needs one engine, which it downloads when the model is run once by hand.");
    open(work + "/out/" + written[0]);
    opened = getImageID();
    tidy();
    return opened;
}

// Deletes the temporary folder, if there is one.
function tidy() {
    if (work == "")
        return;
    written = getFileList(work + "/out");
    for (i = 0; i < written.length; i++)
        deleted = File.delete(work + "/out/" + written[i]);
    deleted = File.delete(work + "/out");
    deleted = File.delete(work + "/planes.tif");
    deleted = File.delete(work);
    work = "";
}

// Returns all that the model made as channels with their names, calibrated like `image`.
function gather(image, iterations, names, slices, frames) {
    count = names.length;
    selectImage(image);
    info = getMetadata("Info");
    getVoxelSize(pixelWidth, pixelHeight, pixelDepth, unit);
    Stack.getUnits(unitX, unitY, unitZ, unitT, unitValue);
    interval = Stack.getFrameInterval();
    newImage("all", "32-bit grayscale-mode", getWidth(), getHeight(), count, slices, frames);
    gathered = getImageID();
    for (i = 1; i <= count * slices * frames; i++) {
        show(iterations, i);
        show(gathered, i);
        imageCalculator("Copy", gathered, iterations);
        Property.setSliceLabel(names[(i - 1) % count], i);
    }
    setVoxelSize(pixelWidth, pixelHeight, pixelDepth, unit);
    Stack.setXUnit(unitX);
    Stack.setYUnit(unitY);
    Stack.setZUnit(unitZ);
    Stack.setTUnit(unitT);
    Stack.setFrameInterval(interval);
    setMetadata("Info", info);
    return gathered;
}

function nameSlices(image, label) {
    selectImage(image);
    for (i = 1; i <= nSlices; i++) {
        show(image, i);
        if (nSlices > 1)
            label = Property.getSliceLabel;
        name = "dial_" + dial;
        if (label != "")
            name = label + ", " + name;
        Property.setSliceLabel(name, i);
    }
}

// A result of deepImageJ is shown from 0 to 1: take the range of each channel instead.
function resetDisplay(image) {
    selectImage(image);
    getDimensions(width, height, channels, slices, frames);
    for (c = channels; c >= 1; c--) {
        if (nSlices > 1)
            Stack.setPosition(c, floor((slices + 1) / 2), 1);
        resetMinAndMax();
    }
}

function finish(result, file) {
    if (file == "")
        return;
    selectImage(result);
    saveAs("Tiff", file);
    close();
}

// -------------------------------------------------------------------------------- failure

// Ends the macro with a sentence, where scripts find it too.
function refuse(sentence) {
    tidy();
    if (output != "" && canWriteFailure())
        File.saveString(FAILED + sentence + "\n", output + ".txt");
    if (!headless())
        exit(sentence);
    print(FAILED + sentence);
    // No call of ImageJ writes to standard error; Linux and macOS have it as a file.
    if (File.exists("/dev/stderr"))
        File.append(FAILED + sentence, "/dev/stderr");
    exit();
}

// Says whether the file of failures can be written without destroying another's.
function canWriteFailure() {
    parent = File.getParent(output);
    if (parent != "" && parent != "null" && !File.isDirectory(parent))
        return false;
    if (!File.exists(output + ".txt"))
        return true;
    return startsWith(File.openAsString(output + ".txt"), FAILED);
}

// Deletes what an earlier run has left, so that it is not taken for this one's.
function forgetFailure() {
    if (output == "")
        return;
    if (File.exists(output + ".txt") && canWriteFailure())
        deleted = File.delete(output + ".txt");
}

// ------------------------------------------------------------------- arguments and files

// Returns what stands after key= in the arguments, in brackets if it has spaces.
function option(text, key, otherwise) {
    start = indexOf(" " + text, " " + key + "=");
    if (start < 0)
        return otherwise;
    rest = substring(text, start + lengthOf(key) + 1);
    end = indexOf(rest, " ");
    if (startsWith(rest, "[")) {
        end = indexOf(rest, "]");
        inner = indexOf(rest, "[", 1);
        if (end < 0 || (inner > 0 && inner < end))
            refuse("A bracket is not closed after " + key + "=: write " + key + "=[...].");
        return substring(rest, 1, end);
    }
    if (end < 0)
        end = lengthOf(rest);
    return substring(rest, 0, end);
}

// Returns an entry of config.dcbmz of a description; the block lies two spaces deep.
function value(text, key) {
    start = indexOf(text, "\n  dcbmz:");
    if (start < 0)
        return "";
    at = indexOf(text, "\n    " + key + ": ", start);
    if (at < 0)
        return "";
    end = indexOf(text, "\n", at + 1);
    if (end < 0)
        end = lengthOf(text);
    return String.trim(substring(text, at + lengthOf(key) + 7, end));
}

// Returns the names of the output channels, in order: a list below config.dcbmz.
function channelNames(text) {
    names = newArray(0);
    start = indexOf(text, "\n  dcbmz:");
    if (start < 0)
        return names;
    at = indexOf(text, "\n    channels:", start);
    if (at < 0)
        return names;
    lines = split(substring(text, at + 1), "\n");
    for (i = 1; i < lines.length; i++) {
        if (!startsWith(lines[i], "      - "))
            return names;
        names = Array.concat(names, String.trim(substring(lines[i], 8)));
    }
    return names;
}

function iterationNames(count) {
    names = newArray(count);
    for (k = 1; k <= count; k++)
        names[k - 1] = "iteration_" + k;
    return names;
}

function folderOfModel(name) {
    name = slashes(name);
    if (name == "")
        return "";
    if (File.exists(name + "/rdf.yaml"))
        return name;
    inside = slashes(getDirectory("imagej"));
    inside = inside + "/models/" + name;
    if (File.exists(inside + "/rdf.yaml"))
        return inside;
    refuse("The folder " + name + " has no rdf.yaml: unpack the package and give its folder as model=.");
}

function slashes(path) {
    path = replace(path, "\\", "/");
    while (lengthOf(path) > 1 && endsWith(path, "/"))
        path = substring(path, 0, lengthOf(path) - 1);
    return path;
}

function stem(name) {
    dot = lastIndexOf(name, ".");
    if (dot > 0)
        return substring(name, 0, dot);
    return name;
}

function isImage(name) {
    name = toLowerCase(name);
    endings = newArray(".tif", ".tiff", ".png", ".bmp", ".pgm", ".dcm");
    for (e = 0; e < endings.length; e++)
        if (endsWith(name, endings[e]))
            return true;
    return false;
}

function headless() {
    if (call("java.awt.GraphicsEnvironment.isHeadless") == "true")
        return true;
    return false;
}

function ask() {
    if (headless())
        refuse("There are no arguments, and no screen to ask for them: give model=[FOLDER] input=[IMAGE] output=[RESULT.tif] dial=1.");
    Dialog.create("DeepContrast");
    Dialog.addDirectory("Folder of the model", File.getDirectory(getInfo("macro.filepath")));
    Dialog.addString("Dial (optical depth, or all)", "1");
    Dialog.show();
    folder = Dialog.getString();
    return "model=[" + folder + "] dial=[" + Dialog.getString() + "]";
}

// DeepContrast in QuPath 0.6 and 0.7: run the model on a region and turn the dial.
//
// Install the extensions "Deep Java Library" (with PyTorch) and "Bioimage Model Zoo", unpack the
// package, open an image, select a rectangle or another annotation (without one the whole image is
// taken), open this file in Automate > Script editor, fill in the settings and press Run.
//
// From a command line, in the order of the settings:
//   QuPath script -i IMAGE -a FOLDER -a RESULT.tif -a 1.7 -a 1 deepcontrast_qupath.groovy
//
// The result is a 32-bit TIFF for ImageJ, in the grey values of the image, with its pixel size and,
// as origin, its place in the image. QuPath sees real neighbours around a region; at the border of
// the image itself it pads in its own way, so that some 70 pixels there differ from other programs.

import groovy.transform.Field
import ij.IJ
import ij.ImagePlus
import ij.ImageStack
import ij.process.FloatProcessor
import java.awt.GraphicsEnvironment
import java.nio.file.Files
import java.nio.file.Path
import qupath.bioimageio.spec.Model
import qupath.imagej.tools.IJTools
import qupath.lib.regions.RegionRequest
import qupath.lib.scripting.QP
import qupath.opencv.ml.BioimageIoTools
import qupath.opencv.ml.PatchClassifierParams
import qupath.opencv.ml.pixel.PixelClassifierTools

// -------------------------------------------------------------------------------- settings

// Folder of the unpacked package.
@Field String MODEL = ''
// TIFF to write; left empty, the result is shown in a window of ImageJ.
@Field String OUTPUT = ''
// Optical depth to remove: 0 is the raw image, one iteration removes one step; 'all' gives every
// channel of the model; 'local' gives its channel 'balanced', where every pixel has its own dial.
@Field String DIAL = '1'
// Channel of the image, from 1.
@Field int CHANNEL = 1

if (binding.hasVariable('args') && args) {
    def given = args as List
    MODEL = given[0]
    OUTPUT = given.size() > 1 ? given[1] : OUTPUT
    DIAL = given.size() > 2 ? given[2] : DIAL
    CHANNEL = given.size() > 3 ? given[3] as int : CHANNEL
}

// ------------------------------------------------------------------------------ arithmetic

/** Returns k and alpha: the dial lies between iterations k and k + 1, at weight alpha. */
static List<Number> dialPosition(double dial, double step, int iterations) {
    double largest = iterations * step
    if (!(dial >= 0 && dial <= largest * (1 + 1e-9))) {
        throw new IllegalArgumentException("The dial lies between 0 and ${largest} (${iterations} "
            + "iterations of ${step}), not at ${dial}: choose a value in between.")
    }
    int whole = Math.min((int) Math.floor(dial / step + 1e-9d), iterations)
    double rest = Math.max(dial - whole * step, 0d)
    if (whole == iterations || rest <= 1e-9d * step) {
        return [whole, 0d]
    }
    return [whole, Math.expm1(rest) / Math.expm1(step)]
}

/** Returns x_k + alpha (x_(k+1) - x_k), where x_0 is the raw image. */
static float[] blend(float[] raw, List<float[]> iterations, double dial, double step) {
    def (Integer k, Double alpha) = dialPosition(dial, step, iterations.size())
    float[] below = k == 0 ? raw : iterations[k - 1]
    if (alpha == 0d) {
        return below.clone()
    }
    float[] above = iterations[k]
    float[] result = new float[below.length]
    double weight = alpha
    for (int i = 0; i < result.length; i++) {
        result[i] = (float) (below[i] + weight * (above[i] - below[i]))
    }
    return result
}

// ---------------------------------------------------------------------------------- region

def imageData = QP.getCurrentImageData()
if (imageData == null) {
    throw new IllegalArgumentException('There is no image: open one first.')
}
if (!MODEL || !Files.isDirectory(Path.of(MODEL))) {
    throw new IllegalArgumentException("A model is the folder of an unpacked package, and '${MODEL}' "
        + 'is none: correct the setting MODEL.')
}
if (!OUTPUT && GraphicsEnvironment.isHeadless()) {
    throw new IllegalArgumentException('Without a screen the result must be saved: name a TIFF as OUTPUT.')
}
def server = imageData.getServer()
if (server.isRGB()) {
    throw new IllegalArgumentException('An image of grey values is needed, and this one is RGB: '
        + 'the model is made for fluorescence.')
}
if (CHANNEL < 1 || CHANNEL > server.nChannels()) {
    throw new IllegalArgumentException("The image has channels 1 to ${server.nChannels()}, not "
        + "${CHANNEL}: correct the setting CHANNEL.")
}
def roi = QP.getSelectedROI()
int left = roi == null ? 0 : Math.max(Math.floor(roi.getBoundsX()) as int, 0)
int top = roi == null ? 0 : Math.max(Math.floor(roi.getBoundsY()) as int, 0)
int right = roi == null ? server.getWidth()
    : Math.min(Math.ceil(roi.getBoundsX() + roi.getBoundsWidth()) as int, server.getWidth())
int bottom = roi == null ? server.getHeight()
    : Math.min(Math.ceil(roi.getBoundsY() + roi.getBoundsHeight()) as int, server.getHeight())
int z = roi == null ? 0 : roi.getZ()
int t = roi == null ? 0 : roi.getT()
if (right <= left || bottom <= top) {
    throw new IllegalArgumentException('The selected region lies outside the image: select another.')
}

// ----------------------------------------------------------------------------------- model

def model = Model.parseModel(Path.of(MODEL))
def own = model.getConfig()?.get('dcbmz')
if (own == null) {
    throw new IllegalArgumentException("A package of dcbmz export is needed, and ${MODEL} is none: "
        + 'name another as MODEL.')
}
double step = own.get('step_optical_depth') as double
int count = own.get('iterations') as int
List<String> names = own.get('channels') as List
// Behind the iterations; no dial between them may touch it.
int balanced = names.indexOf('balanced')
if (DIAL == 'local') {
    if (balanced < 0) {
        throw new IllegalArgumentException("A channel called balanced is needed for 'local', and "
            + "${MODEL} has none: give a number or 'all' as DIAL.")
    }
} else if (DIAL != 'all') {
    if (!DIAL.isDouble()) {
        throw new IllegalArgumentException("The dial is a number, 'all' or 'local', not '${DIAL}': "
            + 'correct the setting DIAL.')
    }
    dialPosition(DIAL as double, step, count)
}
def params = PatchClassifierParams.builder(BioimageIoTools.buildPatchClassifierParams(model))
    .inputChannels(CHANNEL - 1)
    .inputResolution(server.getPixelCalibration(), 1.0d)
    .build()
def classifier = PatchClassifierParams.buildPixelClassifier(params)
def enhancedServer = PixelClassifierTools.createPixelClassificationServer(imageData, classifier)

/** Returns a region of one plane at full resolution, with all its channels. */
def region = { source ->
    def request = RegionRequest.createInstance(
        source.getPath(), 1.0d, left, top, right - left, bottom - top, z, t)
    IJTools.extractHyperstack(source, request, z, z + 1, t, t + 1)
}
ImagePlus rawImage = region(server)
ImagePlus enhancedImage = region(enhancedServer)
def pixels = { ImagePlus image, int channel ->
    image.getStack().getProcessor(channel).convertToFloatProcessor().getPixels() as float[]
}
if (enhancedImage.getStackSize() != names.size()) {
    throw new IllegalArgumentException("The model has the channels ${names.join(', ')}, but QuPath "
        + "gave ${enhancedImage.getStackSize()}: report it.")
}
def planes = (1..names.size()).collect { pixels(enhancedImage, it) }

// ---------------------------------------------------------------------------------- result

def stack = new ImageStack(right - left, bottom - top)
if (DIAL == 'all') {
    planes.eachWithIndex { plane, k ->
        stack.addSlice(names[k], new FloatProcessor(right - left, bottom - top, plane))
    }
} else {
    def plane = DIAL == 'local' ? planes[balanced]
        : blend(pixels(rawImage, CHANNEL), planes[0..<count], DIAL as double, step)
    stack.addSlice("dial_${DIAL}".toString(), new FloatProcessor(right - left, bottom - top, plane))
}
def result = new ImagePlus("${rawImage.getShortTitle()}_dial_${DIAL}".toString(), stack)
result.setDimensions(stack.getSize(), 1, 1)
result.setCalibration(rawImage.getCalibration())
def told = "DeepContrast, dial ${DIAL}, step ${step}, region ${left}, ${top}, ${right - left} x "
result.setProperty('Info', "${told}${bottom - top}, z ${z}, t ${t}, channel ${CHANNEL}".toString())
result.resetDisplayRange()
if (OUTPUT) {
    if (!IJ.saveAsTiff(result, OUTPUT)) {
        throw new IllegalArgumentException("The result could not be saved as ${OUTPUT}: name another place.")
    }
    println("saved ${OUTPUT}")
} else {
    result.show()
}
